// Products of a few rows with a weight that is read once, y = x W^T (+ y)
// (+ bias): generation's case, bound by the memory that W comes from.
#pragma once

#include "kernels/matmul.h"
#include "kernels/types.h"

namespace carry {

// x [M, K] with M <= kFewRows, w [N, K], both fp32 or both bf16; y [M, N].
// The order of each sum depends on K and the instruction set alone.
void VectorMatMul(const ConstMatView& x, const ConstMatView& w,
                  const MatView& y, Write write, const float* bias);

}  // namespace carry
