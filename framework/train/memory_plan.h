// How a step is cut, and what a run will take, before it starts.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/nn/language_model.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// How a step is cut for the rank that has most of it, on the recipe's mesh.
struct StepCut {
  // `recipe` must be resolved.
  explicit StepCut(const config::Recipe& recipe);

  int64_t data, ranks;    // D and S of the mesh
  int64_t rows;           // of a rank
  int64_t batch, passes;  // rows of a pass; passes of a step
  int64_t length, chunk;  // tokens
  int64_t chunks;         // of a sequence
};

struct MemoryPlan {
  int64_t parameters = 0;  // fp32 weights
  int64_t packed = 0;      // their copies for matrix products
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t tape = 0;          // chunks that keep their tapes
  int64_t head = 0;          // a slice of logits
  int64_t edge_carries = 0;  // carries at chunk edges
  int64_t inputs = 0;        // PREFIX: what goes into each layer
  int64_t messages = 0;      // on their way from and to other ranks
  int64_t tokens = 0;        // one step's tokens, targets, document starts

  struct Part {
    const char* name;
    int64_t bytes;
  };
  std::vector<Part> Parts() const;
  int64_t total() const;
  // "parameters 4.1 MiB, gradients ..." in one line.
  std::string ToString() const;
};

// Of one rank of the recipe's mesh and schedule (AUTO: as WAVEFRONT), from the
// shapes alone: allocates nothing. `recipe` must be resolved. Does not count
// what is not a tensor: the program itself, libraries, the cache of freed
// blocks.
MemoryPlan PlanTrainingMemory(const config::Recipe& recipe);

// An error that gives the numbers and the fields to lower if the plan exceeds
// parallel.memory_budget or, where there is none, the `available` bytes of this
// rank, one of `ranks` on its machine.
absl::Status CheckMemory(const MemoryPlan& plan, const config::Recipe& recipe,
                         int64_t available, int ranks);

}  // namespace carry
