// How a Trainer's state goes to and comes from a checkpoint.

#include <google/protobuf/text_format.h>

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "framework/io/checkpoint_folder.h"
#include "framework/io/file.h"
#include "framework/io/hf_config.h"
#include "framework/io/safetensors.h"
#include "framework/nn/weights.h"
#include "framework/train/sliced_tensors.h"
#include "framework/train/trainer.h"
#include "kernels/span.h"

namespace carry {
namespace {

constexpr char kConfig[] = "config.json";
constexpr char kWeights[] = "model.safetensors";
constexpr char kOptimizer[] = "optimizer";  // stems of sliced files
constexpr char kCarries[] = "carries";
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

using OwnFiles = std::map<std::string, std::vector<TensorToWrite>>;

// Writes this rank's files and says to rank 0 what they are, a line each: name,
// size and checksum; or "!" and why it failed.
std::string WriteFiles(const std::string& folder, const OwnFiles& files) {
  std::string report;
  for (const auto& [name, tensors] : files) {
    absl::Status status = WriteSafetensors(JoinPath(folder, name), tensors);
    if (status.ok()) {
      absl::StatusOr<CheckpointFile> file = DescribeFile(folder, name);
      status = file.status();
      if (file.ok()) {
        absl::StrAppend(&report, file->name, " ", file->size, " ",
                        file->checksum, "\n");
      }
    }
    if (!status.ok()) return absl::StrCat("!", status.message());
  }
  return report;
}

absl::Status AddReport(const std::string& report, size_t rank,
                       CheckpointWriter& writer) {
  if (absl::StartsWith(report, "!")) {
    return absl::UnknownError(
        absl::StrCat("rank ", rank, ": ", report.substr(1)));
  }
  for (absl::string_view line :
       absl::StrSplit(report, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    CheckpointFile file;
    CARRY_CHECK(words.size() == 3 && absl::SimpleAtoi(words[1], &file.size));
    file.name = words[0];
    file.checksum = words[2];
    absl::Status status = writer.AddDescribed(file);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
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

// The files that every rank writes for itself, and those of rank 0.
std::map<std::string, std::vector<TensorToWrite>> Trainer::TensorFiles(
    const std::vector<Carry>& carries) {
  const int rank = ranks_.rank(), size = ranks_.size();
  const LanguageModel& model = learner_->model();
  OwnFiles files;
  if (rank == 0) files[kWeights] = WeightsToWrite(model);
  std::vector<TensorToWrite>& moments =
      files[SlicedFileName(kOptimizer, rank, size)];
  for (const AdamWOptimizer::Slice& s : learner_->optimizer().Slices()) {
    const Parameter& p = *s.parameter;
    moments.push_back(
        SliceToWrite("m." + p.name(), p.shape(), s.begin, s.end, s.m));
    moments.push_back(
        SliceToWrite("v." + p.name(), p.shape(), s.begin, s.end, s.v));
  }
  if (carries.empty()) return files;
  const int64_t batch = recipe_.training().batch_size();
  const int64_t first = ranks_.Rows(batch).begin;
  std::vector<TensorToWrite>& carried =
      files[SlicedFileName(kCarries, rank, size)];
  for (size_t l = 0; l < carries.size(); ++l) {
    for (size_t f = 0; f < carries[l].fields(); ++f) {
      const Tensor& t = carries[l].field(f);
      Shape shape = t.shape();
      shape[0] = batch;
      const int64_t row = t.size() / t.dim(0);
      carried.push_back(SliceToWrite(CarryName(l, model.carry_spec(l)[f].name),
                                     shape, first * row, first * row + t.size(),
                                     t));
    }
  }
  return files;
}

absl::Status Trainer::AddCommonFiles(CheckpointWriter& writer) {
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
    absl::Status status = writer.AddFile(name, bytes);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// Commits what all ranks wrote; the path, or "!" and why it failed.
std::string Trainer::CommitOnRoot(const std::vector<std::string>& reports,
                                  CheckpointWriter& writer) {
  absl::Status status;
  for (size_t r = 0; r < reports.size() && status.ok(); ++r) {
    status = AddReport(reports[r], r, writer);
  }
  if (status.ok()) status = AddCommonFiles(writer);
  if (!status.ok()) return absl::StrCat("!", status.message());
  absl::StatusOr<std::string> path = writer.Commit();
  if (!path.ok()) return absl::StrCat("!", path.status().message());
  status = PruneCheckpoints(checkpoints(), recipe_.checkpoint().keep());
  return status.ok() ? *path : absl::StrCat("!", status.message());
}

// Rank 0 makes the folder and commits it; every rank writes its own files. An
// error anywhere reaches all ranks, so that all go on or all stop.
absl::StatusOr<std::string> Trainer::Save() {
  const Span span({.category = "save", .name = "save"});
  std::optional<CheckpointWriter> writer;  // on rank 0
  std::string folder;  // or "!" and why it could not be made
  if (ranks_.rank() == 0) {
    absl::StatusOr<CheckpointWriter> created =
        CheckpointWriter::Create(checkpoints(), step_, "carry " CARRY_VERSION,
                                 3 * learner_->model().parameters().size() * 4);
    if (created.ok()) {
      writer.emplace(*std::move(created));
      folder = writer->folder();
    } else {
      folder = absl::StrCat("!", created.status().message());
    }
  }
  absl::Status status = ranks_.Broadcast("checkpoint folder", folder);
  if (!status.ok()) return status;
  if (absl::StartsWith(folder, "!")) {
    return absl::UnknownError(folder.substr(1));
  }
  const std::vector<Carry> carries = learner_->GetCarries();
  absl::StatusOr<std::vector<std::string>> reports = ranks_.Gather(
      "checkpoint files", WriteFiles(folder, TensorFiles(carries)));
  if (!reports.ok()) return reports.status();
  std::string outcome;
  if (ranks_.rank() == 0) outcome = CommitOnRoot(*reports, *writer);
  status = ranks_.Broadcast("checkpoint commit", outcome);
  if (!status.ok()) return status;
  if (absl::StartsWith(outcome, "!")) {
    return absl::UnknownError(outcome.substr(1));
  }
  return outcome;
}

absl::StatusOr<FoundCheckpoint> Trainer::Resume() {
  absl::StatusOr<FoundCheckpoint> found = FindNewestCheckpoint(checkpoints());
  if (!found.ok()) return found.status();
  const std::string& folder = found->path;
  absl::StatusOr<SafetensorsFolder> weights = SafetensorsFolder::Open(folder);
  if (!weights.ok()) return weights.status();
  absl::Status status = LoadWeights(*weights, folder, learner_->model());
  if (status.ok()) status = LoadOptimizer(folder);
  if (status.ok()) status = LoadState(folder);
  if (status.ok() && recipe_.data().packing() == config::Data::CARRIED) {
    status = LoadCarries(folder);
  }
  if (!status.ok()) return status;
  return found;
}

absl::Status Trainer::LoadOptimizer(const std::string& folder) {
  absl::StatusOr<SlicedReader> reader = SlicedReader::Open(folder, kOptimizer);
  if (!reader.ok()) return reader.status();
  for (const AdamWOptimizer::Slice& s : learner_->optimizer().Slices()) {
    const Parameter& p = *s.parameter;
    absl::Status status =
        reader->Read("m." + p.name(), p.shape(), s.begin, s.end, s.m);
    if (status.ok()) {
      status = reader->Read("v." + p.name(), p.shape(), s.begin, s.end, s.v);
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
  absl::StatusOr<SlicedReader> reader = SlicedReader::Open(folder, kCarries);
  // Not there: every step so far was skipped, so carries are still zeros. (A
  // file that was lost does not get here: the manifest lists it.)
  if (absl::IsNotFound(reader.status())) return absl::OkStatus();
  if (!reader.ok()) return reader.status();
  const int64_t batch = recipe_.training().batch_size();
  const Range rows = ranks_.Rows(batch);
  if (rows.size() == 0) return absl::OkStatus();
  std::vector<Carry> carries;
  for (int64_t l = 0; l < learner_->model().layers(); ++l) {
    const CarrySpec& spec = learner_->model().carry_spec(l);
    carries.push_back(Carry::Empty(spec, rows.size()));
    for (size_t f = 0; f < spec.size(); ++f) {
      const Tensor& t = carries.back().field(f);
      Shape shape = t.shape();
      shape[0] = batch;
      const int64_t row = t.size() / t.dim(0);
      absl::Status status = reader->Read(CarryName(l, spec[f].name), shape,
                                         rows.begin * row, rows.end * row, t);
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
  loaded.model->parameters().AllocateZeros();
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
