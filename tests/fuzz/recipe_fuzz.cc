// Recipes of any bytes: an error or a recipe that reads back as it is.
//
// Lines that begin with "--set " are assignments, the rest is the recipe.
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/check.h"
#include "launch/recipe.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  std::string text;
  std::vector<std::string> sets;
  for (absl::string_view line : absl::StrSplit(input, '\n')) {
    if (absl::ConsumePrefix(&line, "--set ")) {
      sets.emplace_back(line);
    } else {
      text.append(line.data(), line.size());
      text += '\n';
    }
  }
  auto recipe = carry::ParseRecipe(text, "fuzz.textproto", sets);
  if (!recipe.ok()) {
    CARRY_CHECK(!recipe.status().message().empty());
    return 0;
  }
  CARRY_CHECK(!carry::DescribeRecipe(*recipe).empty());
  const std::string full = carry::RecipeText(*recipe);
  auto again = carry::ParseRecipe(full, "again.textproto", {});
  CARRY_CHECK(again.ok());
  CARRY_CHECK(carry::RecipeText(*again) == full);
  return 0;
}
