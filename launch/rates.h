// What one rank can do, measured in a fraction of a second, for the planner
// (parallel/plan.h).
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "parallel/communicator.h"
#include "parallel/plan.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// Runs one layer of the recipe's model over a few tokens on NumThreads()
// threads. What messages cost is taken from how fast memory is: as if they went
// through memory that ranks share, and with 20 us for one to arrive. Peaks of
// memory in use start anew.
// `recipe` is resolved and has a vocab_size.
RankRates MeasureRates(const config::Recipe& recipe);

// The same while all ranks of `world` do so, each rate that of the slowest;
// messages are measured. Collective; every rank gets the same.
absl::StatusOr<RankRates> MeasureRates(const config::Recipe& recipe,
                                       Communicator& world);

// As a JSON object with a member for each rate, by the names in RankRates.
std::string RatesText(const RankRates& rates);
// Reads it back; `source` names the text in errors. All rates must be there,
// and positive; summary and gradient_summary may be 0.
absl::StatusOr<RankRates> ParseRates(const std::string& text,
                                     const std::string& source);

}  // namespace carry
