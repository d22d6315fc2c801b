// A recipe's data: tokenizer, documents to train on, documents held out.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "framework/data/corpus.h"
#include "framework/data/tokenizer.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(
    const config::Tokenizer& config);

// Sets an unset vocabulary to the tokenizer's size; an error where it is set
// and smaller.
absl::Status ResolveVocabulary(const Tokenizer& tokenizer,
                               config::Model* model);

// The same of a recipe, whose tokenizer it opens.
absl::Status ResolveVocabulary(config::Recipe* recipe);

struct TrainingData {
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<const Corpus> train;
  // nullptr: the recipe holds nothing out.
  std::unique_ptr<const Corpus> held_out;
};

// Opens what `data` names. The split is by file: data.eval, or else
// data.holdout_fraction of the training files, chosen with `seed`.
absl::StatusOr<TrainingData> OpenTrainingData(const config::Data& data,
                                              uint64_t seed);

// The held-out side alone, as OpenTrainingData splits it.
absl::StatusOr<TrainingData> OpenHeldOutData(const config::Data& data,
                                             uint64_t seed);

}  // namespace carry
