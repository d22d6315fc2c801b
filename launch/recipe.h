// Recipes: loading, and showing what was loaded.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Parses a recipe in text format, applies the --set assignments in their order
// (launch/recipe_field.h), fills in defaults and checks everything
// (launch/recipe_resolve.h). `source` names the text in errors; its last part
// without ".textproto" is the default name.
absl::StatusOr<config::Recipe> ParseRecipe(
    absl::string_view text, const std::string& source,
    const std::vector<std::string>& sets);

// The same from a file.
absl::StatusOr<config::Recipe> LoadRecipe(const std::string& path,
                                          const std::vector<std::string>& sets);

// The whole recipe in text format; ParseRecipe reads it back as it is.
std::string RecipeText(const config::Recipe& recipe);

// "mamba 8 x 128, expand 2, ...; 966K parameters", of a resolved model.
std::string DescribeModel(const config::Model& model);

// A few aligned lines that say what a resolved recipe does.
std::string DescribeRecipe(const config::Recipe& recipe);

}  // namespace carry
