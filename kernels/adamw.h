// AdamW with decoupled weight decay (arXiv 1711.05101), and norms.
//
//   g = grad_scale grad;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   w = w - lr (m / c1 / (sqrt(v / c2) + eps) + weight_decay w)
//   c1 = 1 - b1^step, c2 = 1 - b2^step
//
// All fp32; 28 bytes a parameter.
#pragma once

#include "kernels/types.h"

namespace carry {

struct AdamWArgs {
  int64_t n;
  float* weight;
  const float* grad;
  float* m;
  float* v;
  float lr, beta1, beta2, eps, weight_decay;
  float correction1, correction2;  // c1, c2
  float grad_scale;
};
void AdamW(const AdamWArgs& args);

// sum x_i^2 in fp64, in an order that depends on n alone: the same bits for
// every number of threads. Not finite if any x is not.
double SumOfSquares(const float* x, int64_t n);

}  // namespace carry
