// What a run will take, before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/nn/language_model.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

struct MemoryPlan {
  int64_t parameters = 0;  // fp32 weights
  int64_t packed = 0;      // their copies for matrix products
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t tape = 0;          // chunks that keep their tapes
  int64_t head = 0;          // a slice of logits
  int64_t edge_carries = 0;  // carries at chunk edges
  int64_t tokens = 0;        // one step's tokens, targets, document starts
  int64_t total() const {
    return parameters + packed + gradients + optimizer + tape + head +
           edge_carries + tokens;
  }
  // "parameters 4.1 MiB, gradients ..." in one line.
  std::string ToString() const;
};

// Of one rank of the recipe's mesh, from the shapes alone: allocates nothing.
// `recipe` must be resolved.
MemoryPlan PlanTrainingMemory(const config::Recipe& recipe);

// An error that gives the numbers and the fields to lower if the plan exceeds
// what the machine has available.
absl::Status CheckMemory(const MemoryPlan& plan, int64_t available);

}  // namespace carry
