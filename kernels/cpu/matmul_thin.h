// y[M, N] = x[M, K] op(W) (+ y) (+ bias) in bf16 where K is so small that
// writing y is most of the work: a layer's dt_proj, and x_proj's gradient. The
// library reaches a seventh of the tiles' rate there.
#pragma once

#include "kernels/matmul.h"

namespace carry {

// Whether the CPU and the instruction set in use multiply tiles, K is even, and
// W's shape is worth it.
constexpr int64_t kMaxThinDepth = 128;
bool TakesThinProduct(int64_t n, int64_t k);

// W in tiles, in so many bytes, aligned to 64.
int64_t ThinWeightBytes(int64_t n, int64_t k);
void PackThinWeight(ConstMatView w, bool transpose, void* tiles);

// x in bf16, y in bf16 or fp32.
void ThinProduct(ConstMatView x, const void* tiles, MatView y, Write write,
                 const float* bias);

}  // namespace carry
