// `carry inspect`: what a recipe says and costs.
#include <iostream>
#include <memory>

#include "absl/status/statusor.h"
#include "launch/command.h"
#include "launch/recipe.h"

namespace carry {
namespace {

absl::Status Inspect(const RecipeOptions& options) {
  absl::StatusOr<config::Recipe> recipe =
      LoadRecipe(options.path, options.sets);
  if (!recipe.ok()) return recipe.status();
  std::cout << DescribeRecipe(*recipe) << "\n" << RecipeText(*recipe);
  return absl::OkStatus();
}

}  // namespace

Command AddInspect(CLI::App& program) {
  auto options = std::make_shared<RecipeOptions>();
  CLI::App* app = program.add_subcommand(
      "inspect", "Show what a recipe says, with all its defaults");
  app->add_option("PATH", options->path, "A recipe (.textproto)")->required();
  AddSetOption(*app, &options->sets);
  app->footer(
      "Example:\n"
      "  carry inspect recipes/quickstart.textproto "
      "--set training.steps=100");
  return {app, [options] { return Inspect(*options); }};
}

}  // namespace carry
