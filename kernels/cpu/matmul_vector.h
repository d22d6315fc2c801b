// Products of a few rows with a weight that is read once, y = x W^T (+ y)
// (+ bias): generation's case, bound by the memory that W comes from.
#pragma once

#include "kernels/types.h"

namespace carry {

// Rows of x that are worth it: four dot products run while a cache line of W
// arrives.
constexpr int64_t kVectorRows = 4;

// x [M, K] with M <= kVectorRows, w [N, K], both fp32 or both bf16; y [M, N].
// The order of each sum depends on K and the instruction set alone.
void VectorMatMul(const ConstMatView& x, const ConstMatView& w,
                  const MatView& y, Write write, const float* bias);

}  // namespace carry
