#include "launch/recipe_resolve.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launch/recipe_field.h"
#include "recipes/schema/rule.pb.h"

namespace carry {
namespace {

namespace pb = google::protobuf;

// Shortest text that reads back as the same number, and 1e+12 as it is.
std::string Number(double x) {
  std::string text = absl::StrFormat("%.15g", x);
  return std::strtod(text.c_str(), nullptr) == x ? text
                                                 : absl::StrFormat("%.17g", x);
}

std::string RangeText(const FieldRule& rule) {
  std::string text;
  auto add = [&](const char* words, double bound) {
    absl::StrAppend(&text, text.empty() ? "" : " and ", words, Number(bound));
  };
  if (rule.has_min()) add("at least ", rule.min());
  if (rule.has_above()) add("more than ", rule.above());
  if (rule.has_max()) add("at most ", rule.max());
  if (rule.has_below()) add("less than ", rule.below());
  return text;
}

bool InRange(const FieldRule& rule, double value) {
  return std::isfinite(value) && (!rule.has_min() || value >= rule.min()) &&
         (!rule.has_max() || value <= rule.max()) &&
         (!rule.has_above() || value > rule.above()) &&
         (!rule.has_below() || value < rule.below());
}

class Resolver {
 public:
  Resolver(const std::string& source, const FieldPlaces& places)
      : source_(source), places_(places) {}

  // "place: path what"; the place of the field, or of the closest message
  // around it that has one.
  absl::Status Error(const std::string& path, const std::string& what) const {
    std::string where = source_;
    for (std::string at = path; !at.empty();) {
      auto found = places_.find(at);
      if (found != places_.end()) {
        where = found->second;
        break;
      }
      size_t dot = at.rfind('.');
      at = dot == std::string::npos ? "" : at.substr(0, dot);
    }
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", path, " ", what));
  }

  // Defaults and ranges of every field, from the rules alone.
  absl::Status ApplyRules(pb::Message* message, const std::string& prefix) {
    const pb::Descriptor& type = *message->GetDescriptor();
    const pb::Reflection& reflection = *message->GetReflection();
    for (int i = 0; i < type.field_count(); ++i) {
      const pb::FieldDescriptor* field = type.field(i);
      const std::string path = absl::StrCat(prefix, field->name());
      if (field->is_repeated()) continue;
      absl::Status status;
      if (field->message_type() == nullptr) {
        status = ApplyRule(message, field, path);
      } else if (field->real_containing_oneof() == nullptr ||
                 reflection.HasField(*message, field)) {
        status =
            ApplyRules(reflection.MutableMessage(message, field), path + ".");
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ApplyRule(pb::Message* message, const pb::FieldDescriptor* field,
                         const std::string& path) {
    const FieldRule& rule = field->options().GetExtension(carry::rule);
    const pb::Reflection& reflection = *message->GetReflection();
    bool unset = !reflection.HasField(*message, field);
    // A value 0 of an enum is "..._DEFAULT".
    if (!unset && field->enum_type() != nullptr) {
      unset = reflection.GetEnumValue(*message, field) == 0;
    }
    if (unset) {
      if (rule.required()) return Error(path, "is missing");
      if (!rule.has_default_()) return absl::OkStatus();
      absl::Status status = SetFieldFromText(message, field, rule.default_());
      if (!status.ok()) {
        return Error(path, absl::StrCat("has a default in the schema that ",
                                        std::string(status.message())));
      }
    }
    return CheckRange(*message, field, rule, path);
  }

  absl::Status CheckRange(const pb::Message& message,
                          const pb::FieldDescriptor* field,
                          const FieldRule& rule,
                          const std::string& path) const {
    const pb::Reflection& reflection = *message.GetReflection();
    double value = 0;
    std::string text;
    switch (field->cpp_type()) {
      case pb::FieldDescriptor::CPPTYPE_INT64:
        value = static_cast<double>(reflection.GetInt64(message, field));
        text = absl::StrCat(reflection.GetInt64(message, field));
        break;
      case pb::FieldDescriptor::CPPTYPE_DOUBLE:
        value = reflection.GetDouble(message, field);
        text = Number(value);
        break;
      case pb::FieldDescriptor::CPPTYPE_ENUM:
        if (field->enum_type()->FindValueByNumber(
                reflection.GetEnumValue(message, field)) == nullptr) {
          return Error(path,
                       absl::StrCat("has no value ",
                                    reflection.GetEnumValue(message, field)));
        }
        return absl::OkStatus();
      default:
        return absl::OkStatus();
    }
    if (InRange(rule, value)) return absl::OkStatus();
    return Error(path,
                 absl::StrCat("must be ", RangeText(rule), ", not ", text));
  }

  const std::string& source_;
  const FieldPlaces& places_;
};

std::string FileStem(const std::string& path) {
  size_t slash = path.rfind('/');
  std::string name = slash == std::string::npos ? path : path.substr(slash + 1);
  size_t dot = name.find(".textproto");
  return dot == std::string::npos || dot == 0 ? name : name.substr(0, dot);
}

// Which member of each oneof holds where the recipe does not say.
void ChooseDefaults(Recipe* recipe) {
  Model* model = recipe->mutable_model();
  if (model->mixer_case() == Model::MIXER_NOT_SET) model->mutable_mamba();
  Tokenizer* tokenizer = recipe->mutable_data()->mutable_tokenizer();
  if (tokenizer->kind_case() == Tokenizer::KIND_NOT_SET) {
    tokenizer->set_bytes(true);
  }
}

void Derive(const std::string& source, Recipe* recipe) {
  if (recipe->name().empty()) recipe->set_name(FileStem(source));
  Model* model = recipe->mutable_model();
  if (model->has_mamba() && model->mamba().time_step_rank() == 0) {
    model->mutable_mamba()->set_time_step_rank((model->hidden_size() + 15) /
                                               16);
  }
  Training* training = recipe->mutable_training();
  if (training->micro_batch_size() == 0) {
    training->set_micro_batch_size(training->batch_size());
  }
  if (training->chunk_length() == 0 ||
      training->chunk_length() > training->sequence_length()) {
    training->set_chunk_length(training->sequence_length());
  }
  Optimizer* optimizer = recipe->mutable_optimizer();
  if (!optimizer->has_decay_steps()) {
    bool decays = optimizer->schedule() == Optimizer::WARMUP_STABLE_DECAY;
    optimizer->set_decay_steps(decays ? training->steps() / 10 : 0);
  }
}

absl::Status CheckModel(const Resolver& at, const Recipe& recipe) {
  if (recipe.model().has_mamba()) {
    const Mamba& mamba = recipe.model().mamba();
    if (mamba.time_step_min() > mamba.time_step_max()) {
      return at.Error("model.mamba.time_step_min",
                      absl::StrCat("is ", mamba.time_step_min(),
                                   ", more than time_step_max, ",
                                   mamba.time_step_max(), "; swap them"));
    }
    if (mamba.time_step_floor() > mamba.time_step_max()) {
      return at.Error("model.mamba.time_step_floor",
                      absl::StrCat("is ", mamba.time_step_floor(),
                                   ", more than time_step_max, ",
                                   mamba.time_step_max(), "; lower it"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckTraining(const Resolver& at, const Training& t) {
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

absl::Status CheckOptimizer(const Resolver& at, const Recipe& recipe) {
  const Optimizer& o = recipe.optimizer();
  const int64_t steps = recipe.training().steps();
  if (o.warmup_steps() > steps) {
    return at.Error(
        "optimizer.warmup_steps",
        absl::StrCat("is ", o.warmup_steps(), ", more than training.steps, ",
                     steps, ": the peak would never be reached; lower it"));
  }
  if (o.schedule() != Optimizer::WARMUP_STABLE_DECAY && o.decay_steps() > 0) {
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

absl::Status CheckData(const Resolver& at, const Recipe& recipe) {
  const Data& data = recipe.data();
  if (data.tokenizer().kind_case() == Tokenizer::kBytes &&
      !data.tokenizer().bytes()) {
    return at.Error("data.tokenizer.bytes",
                    "cannot be false; name a `sentencepiece` model instead");
  }
  if (data.tokenizer().kind_case() == Tokenizer::kSentencepiece &&
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

absl::Status CheckName(const Resolver& at, const Recipe& recipe) {
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

}  // namespace

absl::Status ResolveRecipe(const std::string& source, const FieldPlaces& places,
                           Recipe* recipe) {
  Resolver at(source, places);
  ChooseDefaults(recipe);
  absl::Status status = at.ApplyRules(recipe, "");
  if (!status.ok()) return status;
  Derive(source, recipe);
  if (status = CheckName(at, *recipe); !status.ok()) return status;
  if (status = CheckModel(at, *recipe); !status.ok()) return status;
  if (status = CheckData(at, *recipe); !status.ok()) return status;
  if (status = CheckTraining(at, recipe->training()); !status.ok()) {
    return status;
  }
  if (status = CheckOptimizer(at, *recipe); !status.ok()) return status;
  if (recipe->data().tokenizer().kind_case() == Tokenizer::kBytes) {
    status = ResolveVocabulary(256, recipe);
    if (!status.ok()) {
      return at.Error("model.vocab_size", std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

absl::Status ResolveVocabulary(int64_t tokenizer_size, Recipe* recipe) {
  Model* model = recipe->mutable_model();
  if (model->vocab_size() == 0) model->set_vocab_size(tokenizer_size);
  if (model->vocab_size() < tokenizer_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "is ", model->vocab_size(), ", less than the tokenizer's ",
        tokenizer_size, " ids; leave it out to have it follow the tokenizer"));
  }
  return absl::OkStatus();
}

absl::Status RequireTrainingData(const Recipe& recipe) {
  if (recipe.data().train_size() > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "recipe '", recipe.name(), "' names no data, which is yours to choose: ",
      "add --set data.train=PATH with a file, a folder, a quoted glob, or a "
      "token file made by `carry prepare` (more than one: --set "
      "'data.train=[a, b]')"));
}

}  // namespace carry
