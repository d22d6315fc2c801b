// From what a recipe says to what a run does: defaults, derived values, checks.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "launch/recipe_text.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Fills every field that `recipe` leaves out, except Model.vocab_size where the
// tokenizer is a file (ResolveVocabulary does that), then checks every value
// and every pair of values that can contradict each other. The error names the
// place (from `places`, else `source`), the field, its value and what to do.
absl::Status ResolveRecipe(const std::string& source, const FieldPlaces& places,
                           config::Recipe* recipe);

// Sets an unset vocab_size to the tokenizer's size; an error where it is set
// and smaller.
absl::Status ResolveVocabulary(int64_t tokenizer_size, config::Recipe* recipe);

// The recipe must name training data; says how to give it.
absl::Status RequireTrainingData(const config::Recipe& recipe);

}  // namespace carry
