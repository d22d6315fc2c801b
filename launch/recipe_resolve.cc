#include "launch/recipe_resolve.h"

#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "framework/nn/language_model.h"
#include "recipes/rules.h"

namespace carry {
namespace {

// Errors that name where a field was set.
class Places {
 public:
  Places(const std::string& source, const FieldPlaces& places)
      : source_(source), places_(places) {}

  // Where a field was set, or the closest message around it.
  std::string Where(const std::string& path) const {
    for (std::string at = path; !at.empty();) {
      auto found = places_.find(at);
      if (found != places_.end()) return found->second;
      size_t dot = at.rfind('.');
      at = dot == std::string::npos ? "" : at.substr(0, dot);
    }
    return source_;
  }

  absl::Status Error(const std::string& path, const std::string& what) const {
    return absl::InvalidArgumentError(
        absl::StrCat(Where(path), ": ", path, " ", what));
  }

 private:
  const std::string& source_;
  const FieldPlaces& places_;
};

std::string FileStem(const std::string& path) {
  size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  size_t dot = name.find(".textproto");
  return dot == std::string::npos || dot == 0 ? name : name.substr(0, dot);
}

void Derive(const std::string& source, config::Recipe* recipe) {
  if (recipe->name().empty()) recipe->set_name(FileStem(source));
  config::Training* training = recipe->mutable_training();
  if (training->micro_batch_size() == 0) {
    training->set_micro_batch_size(training->batch_size());
  }
  if (training->chunk_length() == 0 ||
      training->chunk_length() > training->sequence_length()) {
    training->set_chunk_length(training->sequence_length());
  }
  config::Optimizer* optimizer = recipe->mutable_optimizer();
  if (!optimizer->has_decay_steps()) {
    bool decays =
        optimizer->schedule() == config::Optimizer::WARMUP_STABLE_DECAY;
    optimizer->set_decay_steps(decays ? training->steps() / 10 : 0);
  }
}

absl::Status CheckTraining(const Places& at, const config::Training& t) {
  if (t.micro_batch_size() > t.batch_size()) {
    return at.Error(
        "training.micro_batch_size",
        absl::StrCat("is ", t.micro_batch_size(), ", more than batch_size, ",
                     t.batch_size(), "; lower it or raise batch_size"));
  }
  const int64_t most = std::numeric_limits<int64_t>::max();
  if (t.batch_size() > most / t.sequence_length() ||
      t.steps() > most / (t.batch_size() * t.sequence_length())) {
    return at.Error(
        "training.steps",
        absl::StrCat("x batch_size x sequence_length, ", t.steps(), " x ",
                     t.batch_size(), " x ", t.sequence_length(),
                     " tokens, does not fit in 64 bits"));
  }
  return absl::OkStatus();
}

absl::Status CheckOptimizer(const Places& at, const config::Recipe& recipe) {
  const config::Optimizer& o = recipe.optimizer();
  const int64_t steps = recipe.training().steps();
  if (o.warmup_steps() > steps) {
    return at.Error(
        "optimizer.warmup_steps",
        absl::StrCat("is ", o.warmup_steps(), ", more than training.steps, ",
                     steps, ": the peak would never be reached; lower it"));
  }
  if (o.schedule() != config::Optimizer::WARMUP_STABLE_DECAY &&
      o.decay_steps() > 0) {
    return at.Error("optimizer.decay_steps",
                    "is for schedule WARMUP_STABLE_DECAY alone; take it out, "
                    "or set the schedule");
  }
  if (o.decay_steps() > steps - o.warmup_steps()) {
    return at.Error(
        "optimizer.decay_steps",
        absl::StrCat("is ", o.decay_steps(), ", but ", o.warmup_steps(),
                     " of the ", steps, " steps are warm-up; lower either"));
  }
  if (o.min_learning_rate() > o.learning_rate()) {
    return at.Error("optimizer.min_learning_rate",
                    absl::StrCat("is ", o.min_learning_rate(),
                                 ", more than learning_rate, ",
                                 o.learning_rate(), "; lower it"));
  }
  return absl::OkStatus();
}

absl::Status CheckData(const Places& at, const config::Recipe& recipe) {
  const config::Data& data = recipe.data();
  if (data.tokenizer().kind_case() == config::Tokenizer::kBytes &&
      !data.tokenizer().bytes()) {
    return at.Error("data.tokenizer.bytes",
                    "cannot be false; name a `sentencepiece` model instead");
  }
  if (data.tokenizer().kind_case() == config::Tokenizer::kSentencepiece &&
      data.tokenizer().sentencepiece().empty()) {
    return at.Error("data.tokenizer.sentencepiece",
                    "is empty; it is the path of a SentencePiece model");
  }
  for (const auto* list : {&data.train(), &data.eval()}) {
    for (const std::string& path : *list) {
      if (path.empty()) {
        return at.Error(list == &data.train() ? "data.train" : "data.eval",
                        "has an empty path; take it out");
      }
    }
  }
  if (recipe.evaluation().every() > 0 && data.eval_size() == 0 &&
      data.holdout_fraction() == 0) {
    return at.Error("evaluation.every",
                    "asks for evaluation, but data.eval is empty and "
                    "data.holdout_fraction is 0; set one of them");
  }
  return absl::OkStatus();
}

absl::Status CheckName(const Places& at, const config::Recipe& recipe) {
  const std::string& name = recipe.name();
  bool printable = true;
  for (unsigned char c : name) printable &= c > 0x20 && c != 0x7f;
  if (name.empty() || name[0] == '.' || name[0] == '-' || !printable ||
      absl::StrContains(name, "/")) {
    return at.Error("name",
                    "must serve as a folder's name: no '/', no spaces, "
                    "and not '.' or '-' at its start");
  }
  return absl::OkStatus();
}

// Other tokenizers are files, whose size is known once they are open.
absl::Status ResolveByteVocabulary(const Places& at, config::Recipe* recipe) {
  if (recipe->data().tokenizer().kind_case() != config::Tokenizer::kBytes) {
    return absl::OkStatus();
  }
  config::Model* model = recipe->mutable_model();
  if (model->vocab_size() == 0) model->set_vocab_size(256);
  if (model->vocab_size() >= 256) return absl::OkStatus();
  return at.Error("model.vocab_size",
                  absl::StrCat("is ", model->vocab_size(),
                               ", less than the tokenizer's 256 ids; leave it "
                               "out to have it follow the tokenizer"));
}

}  // namespace

absl::Status ResolveRecipe(const std::string& source, const FieldPlaces& places,
                           config::Recipe* recipe) {
  Places at(source, places);
  config::Tokenizer* tokenizer = recipe->mutable_data()->mutable_tokenizer();
  if (tokenizer->kind_case() == config::Tokenizer::KIND_NOT_SET) {
    tokenizer->set_bytes(true);
  }
  std::string bad_field;
  absl::Status status = ResolveModel(recipe->mutable_model(), &bad_field);
  if (status.ok()) status = ApplyRules(recipe, "", &bad_field);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(at.Where(bad_field), ": ", status.message()));
  }
  Derive(source, recipe);
  if (status = CheckName(at, *recipe); !status.ok()) return status;
  if (status = CheckData(at, *recipe); !status.ok()) return status;
  if (status = CheckTraining(at, recipe->training()); !status.ok()) {
    return status;
  }
  if (status = CheckOptimizer(at, *recipe); !status.ok()) return status;
  return ResolveByteVocabulary(at, recipe);
}

absl::Status RequireTrainingData(const config::Recipe& recipe) {
  if (recipe.data().train_size() > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "recipe '", recipe.name(), "' names no data, which is yours to choose: ",
      "add --set data.train=PATH with a file, a folder, a quoted glob, or a "
      "token file made by `carry prepare` (more than one: --set "
      "'data.train=[a, b]')"));
}

}  // namespace carry
