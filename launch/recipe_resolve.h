// From what a recipe says to what a run does: defaults, derived values, checks.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "launch/recipe_text.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Fills every field that `recipe` leaves out, except model.vocab_size where the
// tokenizer is a file (its size is known once it is open), then checks every
// value and every pair of values that can contradict each other. The error
// names the place (from `places`, else `source`), the field, its value and what
// to do.
absl::Status ResolveRecipe(const std::string& source, const FieldPlaces& places,
                           config::Recipe* recipe);

// The recipe must name training data; says how to give it.
absl::Status RequireTrainingData(const config::Recipe& recipe);

}  // namespace carry
