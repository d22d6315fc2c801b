// What a recipe costs, from its shapes alone; allocates nothing.
#pragma once

#include <cstdint>

#include "recipes/schema/recipe.pb.h"

namespace carry {

struct RecipeCost {
  int64_t parameters = 0;
  int64_t tokens_per_step = 0;
  int64_t carry_bytes = 0;  // Of one sequence, all layers.
  // FLOPs of matrix products, a multiply-add as two. Forward of one token:
  double forward_flops = 0;
  // A whole step: three times forward (backward is two), and the forward
  // without the head once more for every chunk that keeps no tape.
  double step_flops = 0;
};

// `recipe` is resolved and has a vocab_size.
RecipeCost CostOf(const config::Recipe& recipe);

}  // namespace carry
