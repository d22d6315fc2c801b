// A training run, as `carry train` and whatever else starts one has it.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/command.h"
#include "launch/ranks.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

struct TrainOptions {
  RecipeOptions recipe;
  std::string out;  // empty: runs/ and the recipe's name
  bool resume = false;
  bool threads_given = false;
  std::string trace;  // file to write one to (launch/trace.h), or empty
};

// StartRanks, or another way to come by ranks.
using RanksStarter = std::function<absl::StatusOr<Ranks>(
    const config::Recipe& recipe, bool threads_given)>;

// From the recipe to the last checkpoint. Collective: every rank calls it.
absl::Status Train(const TrainOptions& options, const RanksStarter& start);

}  // namespace carry
