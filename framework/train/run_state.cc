// How a Trainer's state goes to and comes from a checkpoint.

#include <google/protobuf/text_format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/io/checkpoint_folder.h"
#include "framework/io/file.h"
#include "framework/io/hf_config.h"
#include "framework/io/safetensors.h"
#include "framework/nn/weights.h"
#include "framework/train/trainer.h"

namespace carry {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kWeights[] = "model.safetensors";
constexpr char kOptimizer[] = "optimizer.safetensors";
constexpr char kCarries[] = "carries.safetensors";
constexpr char kRecipe[] = "recipe.textproto";
constexpr char kTokenizer[] = "tokenizer.model";
constexpr char kState[] = "state.json";
constexpr int kStateFormat = 1;

absl::StatusOr<std::string> RecipeText(const config::Recipe& recipe) {
  std::string text;
  if (!google::protobuf::TextFormat::PrintToString(recipe, &text)) {
    return absl::InternalError("cannot print the recipe");
  }
  return text;
}

// A count in state.json.
absl::StatusOr<int64_t> Count(const nlohmann::json& json, const char* key,
                              const std::string& path) {
  const auto it = json.find(key);
  if (it == json.end() || !it->is_number_unsigned() ||
      it->get<uint64_t>() > uint64_t{1} << 62) {
    return absl::DataLossError(
        absl::StrCat(path, ": \"", key,
                     "\" must be a number from 0 to 2^62; the file is "
                     "damaged: resume from another checkpoint"));
  }
  return static_cast<int64_t>(it->get<uint64_t>());
}

std::string CarryName(int64_t layer, const std::string& field) {
  return absl::StrCat("layers.", layer, ".", field);
}

// Copies a tensor of `file` into `out`, which has its shape.
absl::Status Load(const SafetensorsFile& file, const std::string& name,
                  const Shape& shape, float* out) {
  const TensorView* tensor = file.Find(name);
  if (tensor == nullptr) {
    return absl::NotFoundError(
        absl::StrCat(file.path(), ": there is no tensor ", name,
                     "; the checkpoint is of another model"));
  }
  if (tensor->shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path(), ": ", name, " has shape ", ToString(tensor->shape),
        ", this recipe wants ", ToString(shape),
        "; resume with the recipe that the checkpoint holds"));
  }
  return CopyAsFloat(*tensor, absl::MakeSpan(out, Product(shape)));
}

absl::Status AddSafetensors(const std::string& name,
                            const std::vector<TensorToWrite>& tensors,
                            CheckpointWriter& writer) {
  absl::Status status = WriteSafetensors(writer.PathOf(name), tensors);
  return status.ok() ? writer.AddWritten(name) : status;
}

}  // namespace

std::string Trainer::StateJson() const {
  nlohmann::ordered_json json;
  json["format"] = kStateFormat;
  json["step"] = step_;
  json["tokens"] = tokens_;
  json["updates"] = learner_->updates();
  json["nonfinite_in_a_row"] = nonfinite_in_a_row_;
  json["data"] = batches_->Position(step_).ToJson();
  return json.dump(2) + "\n";
}

absl::StatusOr<std::string> Trainer::Save() {
  absl::StatusOr<CheckpointWriter> writer =
      CheckpointWriter::Create(checkpoints(), step_, "carry " CARRY_VERSION,
                               3 * learner_->model().parameters().size() * 4);
  if (!writer.ok()) return writer.status();
  absl::StatusOr<std::string> recipe = RecipeText(recipe_);
  if (!recipe.ok()) return recipe.status();
  std::map<std::string, std::string> files = {
      {kConfig, HfConfigText(recipe_.model())},
      {kRecipe, *recipe},
      {kState, StateJson()}};
  if (recipe_.data().tokenizer().has_sentencepiece()) {
    absl::StatusOr<std::string> model =
        ReadFile(recipe_.data().tokenizer().sentencepiece());
    if (!model.ok()) return model.status();
    files[kTokenizer] = *std::move(model);
  }
  for (const auto& [name, bytes] : files) {
    absl::Status status = writer->AddFile(name, bytes);
    if (!status.ok()) return status;
  }

  LanguageModel& model = learner_->model();
  std::vector<TensorToWrite> moments;
  for (const auto& p : model.parameters().parameters()) {
    const AdamWOptimizer& optimizer = learner_->optimizer();
    moments.push_back({"m." + p->name(), DType::kF32, p->shape(),
                       optimizer.m().f32() + p->offset()});
    moments.push_back({"v." + p->name(), DType::kF32, p->shape(),
                       optimizer.v().f32() + p->offset()});
  }
  const std::vector<Carry> carries = learner_->GetCarries();
  std::vector<TensorToWrite> carried;
  for (size_t l = 0; l < carries.size(); ++l) {
    for (size_t f = 0; f < carries[l].fields(); ++f) {
      const Tensor& t = carries[l].field(f);
      carried.push_back({CarryName(l, model.carry_spec(l)[f].name), DType::kF32,
                         t.shape(), t.data()});
    }
  }
  absl::Status status =
      AddSafetensors(kWeights, WeightsToWrite(model), *writer);
  if (status.ok()) status = AddSafetensors(kOptimizer, moments, *writer);
  if (status.ok() && !carried.empty()) {
    status = AddSafetensors(kCarries, carried, *writer);
  }
  if (!status.ok()) return status;
  absl::StatusOr<std::string> path = writer->Commit();
  if (!path.ok()) return path;
  // The new checkpoint is safe; what cannot be removed is only untidy.
  status = PruneCheckpoints(checkpoints(), recipe_.checkpoint().keep());
  if (!status.ok()) return status;
  return path;
}

absl::StatusOr<FoundCheckpoint> Trainer::Resume() {
  absl::StatusOr<FoundCheckpoint> found = FindNewestCheckpoint(checkpoints());
  if (!found.ok()) return found.status();
  const std::string* folder = &found->path;
  absl::StatusOr<SafetensorsFolder> weights = SafetensorsFolder::Open(*folder);
  if (!weights.ok()) return weights.status();
  absl::Status status = LoadWeights(*weights, *folder, learner_->model());
  if (status.ok()) status = LoadOptimizer(*folder);
  if (status.ok()) status = LoadState(*folder);
  // Not there: every step so far was skipped, so carries are still zeros.
  // (A file that was lost does not get here: the manifest lists it.)
  if (status.ok() && recipe_.data().packing() == config::Data::CARRIED &&
      PathExists(JoinPath(*folder, kCarries))) {
    status = LoadCarries(*folder);
  }
  if (!status.ok()) return status;
  return found;
}

absl::Status Trainer::LoadOptimizer(const std::string& folder) {
  absl::StatusOr<SafetensorsFile> file =
      SafetensorsFile::Open(JoinPath(folder, kOptimizer));
  if (!file.ok()) return file.status();
  for (const auto& p : learner_->model().parameters().parameters()) {
    const AdamWOptimizer& optimizer = learner_->optimizer();
    absl::Status status = Load(*file, "m." + p->name(), p->shape(),
                               optimizer.m().f32() + p->offset());
    if (status.ok()) {
      status = Load(*file, "v." + p->name(), p->shape(),
                    optimizer.v().f32() + p->offset());
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Trainer::LoadState(const std::string& folder) {
  const std::string path = JoinPath(folder, kState);
  absl::StatusOr<std::string> text = ReadFile(path, int64_t{1} << 20);
  if (!text.ok()) return text.status();
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object() || json.value("format", nlohmann::json()) != 1 ||
      !json.contains("data") || !json["data"].is_string()) {
    return absl::DataLossError(absl::StrCat(
        path, ": not a state of format ", kStateFormat,
        "; it is damaged or was written by another version of carry"));
  }
  int64_t updates = 0;
  for (auto [key, value] : std::vector<std::pair<const char*, int64_t*>>{
           {"step", &step_},
           {"tokens", &tokens_},
           {"updates", &updates},
           {"nonfinite_in_a_row", &nonfinite_in_a_row_}}) {
    absl::StatusOr<int64_t> count = Count(json, key, path);
    if (!count.ok()) return count.status();
    *value = *count;
  }
  absl::StatusOr<DataPosition> position =
      DataPosition::FromJson(json["data"].get<std::string>(), path);
  if (!position.ok()) return position.status();
  absl::Status status = batches_->CheckPosition(*position);
  if (!status.ok()) return status;
  if (position->step != step_) {
    return absl::DataLossError(absl::StrCat(
        path, ": step is ", step_, " but the data's position is step ",
        position->step, "; the file is damaged"));
  }
  learner_->set_updates(updates);
  return absl::OkStatus();
}

absl::Status Trainer::LoadCarries(const std::string& folder) {
  absl::StatusOr<SafetensorsFile> file =
      SafetensorsFile::Open(JoinPath(folder, kCarries));
  if (!file.ok()) return file.status();
  std::vector<Carry> carries;
  for (int64_t l = 0; l < learner_->model().layers(); ++l) {
    const CarrySpec& spec = learner_->model().carry_spec(l);
    carries.push_back(Carry::Empty(spec, recipe_.training().batch_size()));
    for (size_t f = 0; f < spec.size(); ++f) {
      const Tensor& t = carries.back().field(f);
      absl::Status status =
          Load(*file, CarryName(l, spec[f].name), t.shape(), t.f32());
      if (!status.ok()) return status;
    }
  }
  learner_->SetCarries(carries);
  return absl::OkStatus();
}

absl::StatusOr<LoadedModel> LoadModel(const std::string& folder,
                                      DType activations) {
  LoadedModel loaded;
  loaded.path = folder;
  if (!PathExists(JoinPath(folder, kConfig)) &&
      IsDirectory(JoinPath(folder, "checkpoints"))) {
    absl::StatusOr<FoundCheckpoint> newest =
        FindNewestCheckpoint(JoinPath(folder, "checkpoints"));
    if (!newest.ok()) return newest.status();
    loaded.path = newest->path;
  }
  absl::StatusOr<config::Model> model =
      ReadHfConfig(JoinPath(loaded.path, kConfig));
  if (!model.ok()) return model.status();
  absl::Status status = ResolveModel(&*model);
  if (!status.ok()) return status;
  absl::StatusOr<SafetensorsFolder> weights =
      SafetensorsFolder::Open(loaded.path);
  if (!weights.ok()) return weights.status();
  loaded.model = std::make_unique<LanguageModel>(*model, activations);
  loaded.model->Allocate(0, /*gradients=*/false);
  status = LoadWeights(*weights, loaded.path, *loaded.model);
  if (!status.ok()) return status;

  const std::string recipe = JoinPath(loaded.path, kRecipe);
  if (PathExists(recipe)) {
    absl::StatusOr<std::string> text = ReadFile(recipe, int64_t{1} << 20);
    if (!text.ok()) return text.status();
    if (!google::protobuf::TextFormat::ParseFromString(*text, &loaded.recipe)) {
      return absl::DataLossError(
          absl::StrCat(recipe,
                       ": not a recipe of this version of carry; take the file "
                       "away to load the weights alone"));
    }
    loaded.has_recipe = true;
    // The checkpoint's own copy outlives the file that training read.
    const std::string tokenizer = JoinPath(loaded.path, kTokenizer);
    if (PathExists(tokenizer)) {
      loaded.recipe.mutable_data()->mutable_tokenizer()->set_sentencepiece(
          tokenizer);
    }
  }
  return loaded;
}

}  // namespace carry
