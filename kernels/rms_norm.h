// Residual sum and RMSNorm in one pass (Zhang & Sennrich, arXiv 1910.07467).
//
//   s_r = residual_r + delta_r          residual, s fp32 [R, D]; delta [R, D]
//   q_r = 1 / sqrt(mean_d s_rd^2 + eps)
//   y_rd = s_rd q_r w_d                 y fp32 or bf16 [R, D], w fp32 [D]
//
// Backward, with g = dy and d = gradient of s from later layers:
//   ds_rd = d_rd + q_r (g_rd w_d - s_rd q_r^2 mean_d(g_rd w_d s_rd))
//   dw_d += sum_r g_rd s_rd q_r
//   dresidual = ds (fp32), ddelta = ds in delta's dtype.
//
// Bytes a row: forward D (4 + |delta| + 4 + |y|). Reductions in fp32, in an
// order that depends on (R, D) and the thread count alone.
#pragma once

#include "kernels/types.h"

namespace carry {

struct RmsNormForwardArgs {
  const float* residual;  // [R, D]
  ConstMatView delta;     // [R, D], or data == nullptr: s = residual
  const float* weight;    // [D]
  float eps;
  float* sum;      // [R, D]: s. May equal residual; nullptr: not kept
  MatView y;       // [R, D]
  float* inv_rms;  // [R], or nullptr
};
void RmsNormForward(const RmsNormForwardArgs& args);

struct RmsNormBackwardArgs {
  ConstMatView dy;       // [R, D]
  const float* dsum;     // [R, D], or nullptr: no later use of s
  const float* sum;      // [R, D], from forward
  const float* inv_rms;  // [R], from forward
  const float* weight;   // [D]
  float* dresidual;      // [R, D], overwritten; may equal dsum
  MatView ddelta;        // [R, D], overwritten; data == nullptr: not wanted
  float* dweight;        // [D], accumulated
};
void RmsNormBackward(const RmsNormBackwardArgs& args);

}  // namespace carry
