// The selective scan (Mamba, arXiv 2312.00752, section 3.2 and algorithm 2)
// with a carry in, a carry out, and the gradients of both.
//
//   dt_te = softplus(dt_raw_te + dt_bias_e)      a_ten = exp(dt_te A_en)
//   h_ten = a_ten h_{t-1,en} + dt_te u_te B_tn   h_{-1} = state_in
//   y_te  = sum_n C_tn h_ten + D_e u_te          out = y silu(z), or y
//   document_start_t  =>  a_t = 0
//
// Backward, right to left, g_T = gradient of state_out:
//   g_t = C_t dy_t + a_{t+1} g_{t+1};  du, d(dt), dA, dB, dC, dD from g_t and
//   the recomputed h_{t-1};  dz;  gradient of state_in = a_0 g_0.
//
//   u, dt_raw, z, out   fp32 or bf16 [B*T, E]
//   B, C                fp32 or bf16 [B*T, N]  (usually columns of one matrix)
//   A (negative), D, dt_bias, states   fp32 [E, N], [E], [E], [B, E, N]
//
// All arithmetic is fp32. Nothing of size [T, E, N] reaches memory: forward
// keeps the state before every tile of kScanTile tokens in `saved`, backward
// recomputes inside a tile. Its layout is private to the backend.
// Bits of out and state_out do not depend on the number of threads.
#pragma once

#include "kernels/types.h"

namespace carry {

struct SelectiveScanArgs {
  int64_t batch, time, channels, states;  // B, T, E, N (1 <= N <= 256)
  ConstMatView u;                         // [B*T, E]
  ConstMatView dt_raw;                    // [B*T, E], before bias and softplus
  ConstMatView z;                         // [B*T, E]; data == nullptr: no gate
  ConstMatView b;                         // [B*T, N]
  ConstMatView c;                         // [B*T, N]
  const float* a;                         // [E, N], negative
  const float* d;                         // [E], or nullptr: no skip
  const float* dt_bias;                   // [E], or nullptr
  const float* state_in;                  // [B, E, N], or nullptr: zeros
  const uint8_t* document_start;          // [B, T], or nullptr: none
};

// Floats that forward saves for backward.
int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                               int64_t states);

struct SelectiveScanForwardOut {
  MatView out;       // [B*T, E]
  float* state_out;  // [B, E, N], or nullptr
  float* saved;      // [SelectiveScanSavedSize], or nullptr: inference
};
void SelectiveScanForward(const SelectiveScanArgs& args,
                          const SelectiveScanForwardOut& out);

struct SelectiveScanBackwardArgs {
  ConstMatView dout;        // [B*T, E]
  const float* dstate_out;  // [B, E, N], or nullptr: zeros
  const float* saved;       // from forward
  MatView du;               // [B*T, E], overwritten
  MatView ddt_raw;          // [B*T, E], overwritten
  MatView dz;               // [B*T, E], overwritten; nullptr without gate
  MatView db;               // [B*T, N], overwritten
  MatView dc;               // [B*T, N], overwritten
  float* da;                // [E, N], accumulated: gradient of A
  float* dd;                // [E], accumulated, or nullptr
  float* ddt_bias;          // [E], accumulated, or nullptr
  float* dstate_in;         // [B, E, N], overwritten, or nullptr
};
void SelectiveScanBackward(const SelectiveScanArgs& args,
                           const SelectiveScanBackwardArgs& grad);

}  // namespace carry
