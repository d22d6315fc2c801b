#include "launch/recipe.h"

#include <google/protobuf/text_format.h>

#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "framework/io/file.h"
#include "framework/nn/language_model.h"
#include "launch/human.h"
#include "launch/recipe_field.h"
#include "launch/recipe_resolve.h"
#include "launch/recipe_text.h"

namespace carry {
namespace {

// Recipes are pages; what is larger is some other file.
constexpr int64_t kMaxRecipeBytes = 4 << 20;

std::string MixerText(const config::Model& model) {
  const config::Mamba& mamba = model.mamba();
  return absl::StrFormat("mamba %d x %d, expand %d, state %d, conv %d, rank %d",
                         model.num_layers(), model.hidden_size(),
                         mamba.expand(), mamba.state_size(),
                         mamba.conv_kernel(), mamba.time_step_rank());
}

std::string DataText(const config::Data& data) {
  std::string text =
      data.train_size() == 0 ? "none" : absl::StrJoin(data.train(), " ");
  if (data.extensions_size() > 0) {
    absl::StrAppend(&text, " (", absl::StrJoin(data.extensions(), " "), ")");
  }
  absl::StrAppend(
      &text, "; ",
      data.tokenizer().kind_case() == config::Tokenizer::kBytes
          ? "bytes"
          : data.tokenizer().sentencepiece(),
      "; ", data.packing() == config::Data::CARRIED ? "carried" : "packed",
      data.shuffle() ? ", shuffled; " : "; ");
  if (data.eval_size() > 0) {
    absl::StrAppend(&text, "held out: ", absl::StrJoin(data.eval(), " "));
  } else {
    absl::StrAppendFormat(&text, "%.4g%% of the files held out",
                          100 * data.holdout_fraction());
  }
  return text;
}

std::string StepText(const config::Training& t) {
  std::string text = absl::StrFormat(
      "%d x %d tokens = %s", t.batch_size(), t.sequence_length(),
      Human(t.batch_size() * t.sequence_length()));
  if (t.micro_batch_size() < t.batch_size()) {
    absl::StrAppend(&text, ", ", t.micro_batch_size(), " at once");
  }
  if (t.chunk_length() < t.sequence_length()) {
    absl::StrAppend(&text, ", in chunks of ", t.chunk_length());
  }
  return absl::StrCat(
      text, ", ", t.precision() == config::Training::BF16 ? "bf16" : "fp32");
}

std::string OptimizerText(const config::Optimizer& o) {
  std::string text =
      absl::StrFormat("AdamW, peak rate %.4g", o.learning_rate());
  if (o.warmup_steps() > 0) {
    absl::StrAppend(&text, " after ", o.warmup_steps(), " steps");
  }
  switch (o.schedule()) {
    case config::Optimizer::CONSTANT:
      absl::StrAppend(&text, ", constant");
      break;
    case config::Optimizer::WARMUP_STABLE_DECAY:
      absl::StrAppendFormat(&text, ", linear to %.4g in the last %d",
                            o.min_learning_rate(), o.decay_steps());
      break;
    default:
      absl::StrAppendFormat(&text, ", cosine to %.4g", o.min_learning_rate());
  }
  absl::StrAppendFormat(&text, "; betas %.4g %.4g, decay %.4g", o.beta1(),
                        o.beta2(), o.weight_decay());
  if (o.max_grad_norm() > 0) {
    absl::StrAppendFormat(&text, ", clipped to %.4g", o.max_grad_norm());
  }
  return text;
}

std::string Every(int64_t steps) {
  return steps == 0 ? "at the end"
                    : absl::StrCat("every ", steps, " steps and at the end");
}

}  // namespace

absl::StatusOr<config::Recipe> ParseRecipe(
    absl::string_view text, const std::string& source,
    const std::vector<std::string>& sets) {
  config::Recipe recipe;
  FieldPlaces places;
  absl::Status status = ParseText(text, source, &recipe, &places);
  if (!status.ok()) return status;
  for (const std::string& set : sets) {
    status = ApplySet(set, &recipe, &places);
    if (!status.ok()) return status;
  }
  status = ResolveRecipe(source, places, &recipe);
  if (!status.ok()) return status;
  return recipe;
}

absl::StatusOr<config::Recipe> LoadRecipe(
    const std::string& path, const std::vector<std::string>& sets) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxRecipeBytes);
  if (!text.ok()) return text.status();
  if (text->find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": this is no recipe; recipes are protobuf text (.textproto)"));
  }
  return ParseRecipe(*text, path, sets);
}

std::string RecipeText(const config::Recipe& recipe) {
  std::string text;
  google::protobuf::TextFormat::PrintToString(recipe, &text);
  return text;
}

std::string DescribeModel(const config::Model& model) {
  std::string text = MixerText(model);
  if (model.vocab_size() == 0) return text;
  const LanguageModel shape(model, DType::kF32);
  return absl::StrCat(text, "; vocabulary ", model.vocab_size(),
                      model.tie_embeddings() ? " tied; " : "; ",
                      Human(static_cast<double>(shape.NumParameters())),
                      " parameters");
}

std::string DescribeRecipe(const config::Recipe& recipe) {
  const config::Training& t = recipe.training();
  const int64_t tokens = t.steps() * t.batch_size() * t.sequence_length();
  return absl::StrCat("recipe      ", recipe.name(), "\n",                    //
                      "model       ", DescribeModel(recipe.model()), "\n",    //
                      "data        ", DataText(recipe.data()), "\n",          //
                      "step        ", StepText(t), "\n",                      //
                      "run         ", t.steps(), " steps = ", Human(tokens),  //
                      " tokens, seed ", t.seed(), "\n",                       //
                      "optimizer   ", OptimizerText(recipe.optimizer()),
                      "\n",  //
                      "checkpoint  ", Every(recipe.checkpoint().every()), "\n",
                      "evaluation  ", Every(recipe.evaluation().every()), "\n");
}

}  // namespace carry
