// Depthwise causal convolution with a carry, kernels/causal_conv1d.h.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

struct CausalConv1dOut {
  Var y;          // [B, T, E], x's dtype: silu(conv(x))
  Var carry_out;  // fp32 [B, E, K-1]
};
// x [B, T, E]; weight [E, 1, K]; bias [E] or nullptr; carry_in fp32
// [B, E, K-1] or undefined (zeros); document_start [B, T] or nullptr.
// carry_out is written to `carry_buffer` if that is defined. Arrays that are
// passed by pointer must outlive the tape.
CausalConv1dOut CausalConv1d(Tape& tape, const Var& x, Parameter& weight,
                             Parameter* bias, const Var& carry_in,
                             const uint8_t* document_start,
                             Tensor carry_buffer);

}  // namespace carry
