// Depthwise causal convolution with a carry, and the SiLU behind it.
//
//   v_te = bias_e + sum_{k=0}^{K-1} w_ek x_{t-K+1+k, e}     y = silu(v)
//
// x_{-K+1} .. x_{-1} come from carry_in [B, E, K-1] (oldest first), which is
// zero when nullptr. document_start[b, t] != 0 means that taps at or after t
// do not reach before t. carry_out holds the last K-1 inputs, zero where they
// belong to an earlier document (or to no input at all); it is right for any
// T >= 1, also T < K-1.
//
// Backward: dv = dy silu'(v) with v recomputed; dx, dw, dbias, and the
// gradient of carry_in; dcarry_out is the gradient of carry_out.
//
// x, y fp32 or bf16 [B*T, E]; weight, bias, carries fp32.
// Bytes a row: forward E (|x| + |y|), backward E (|x| + |dy| + |dx|).
#pragma once

#include "kernels/types.h"

namespace carry {

struct CausalConv1dArgs {
  int64_t batch, time, channels, taps;  // B, T, E, K (1 <= K <= 8)
  ConstMatView x;                       // [B*T, E]
  const float* weight;                  // [E, K]
  const float* bias;                    // [E], or nullptr
  const float* carry_in;                // [B, E, K-1], or nullptr: zeros
  const uint8_t* document_start;        // [B, T], or nullptr: none
  bool silu = true;                     // false: y = v
};

struct CausalConv1dForwardOut {
  MatView y;         // [B*T, E]
  float* carry_out;  // [B, E, K-1], or nullptr
};
void CausalConv1dForward(const CausalConv1dArgs& args,
                         const CausalConv1dForwardOut& out);

struct CausalConv1dBackwardArgs {
  ConstMatView dy;          // [B*T, E]
  const float* dcarry_out;  // [B, E, K-1], or nullptr: zeros
  MatView dx;               // [B*T, E], overwritten
  float* dweight;           // [E, K], accumulated
  float* dbias;             // [E], accumulated, or nullptr
  float* dcarry_in;         // [B, E, K-1], overwritten, or nullptr
};
void CausalConv1dBackward(const CausalConv1dArgs& args,
                          const CausalConv1dBackwardArgs& grad);

}  // namespace carry
