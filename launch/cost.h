// What a recipe costs, from its sizes alone.
#pragma once

#include <cstdint>

#include "recipes/schema/recipe.pb.h"

namespace carry {

// For Mamba with D = hidden_size, E = expand D, N, K, R as in the schema, V:
//   a block has  D (norm) + 2ED + E(K+1) + (R+2N)E + ER + E + EN + E + DE
//   parameters (fewer or more by the biases that the recipe chooses); the model
//   has those, V D for the embedding (again for an untied head) and D.
// FLOPs count a multiply-add as two, an exponential as one, and the parts that
// grow with tokens x channels x states; norms and gates are left out.
//   matrix products  2 x the entries of in_proj, x_proj, dt_proj, out_proj and
//                    the head, a token, forward; backward twice that
//   scan             forward about 7 E N: exp(dt A), its product, dt u B, the
//                    recurrence, C h; backward about 14 E N with recomputation
//   convolution      2 E K forward, 4 E K backward
struct ModelCost {
  int64_t parameters = 0;
  double matmul_forward_flops = 0;  // Per token.
  double other_forward_flops = 0;   // Per token: scan and convolution.
  int64_t carry_bytes = 0;          // Per sequence, all layers, fp32.

  double forward_flops() const {
    return matmul_forward_flops + other_forward_flops;
  }
  // Forward and backward of one token; chunks that are run twice add another
  // forward.
  double training_flops() const { return 3 * forward_flops(); }
};

// `model` is resolved and has a vocab_size.
ModelCost CostOf(const config::Model& model);

// One optimizer step. With more than one chunk, all but the last run forward a
// second time, the first time without the head.
struct StepCost {
  int64_t tokens = 0;
  double matmul_flops = 0;
  int64_t edge_carry_bytes = 0;  // Carries kept at the chunk edges.
  int64_t optimizer_bytes = 0;   // Parameters, gradients, two moments: fp32.
};
StepCost CostOfStep(const config::Recipe& recipe);

}  // namespace carry
