// The selective scan with a carry, kernels/selective_scan.h.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

struct SelectiveScanIn {
  Var u, dt_raw;                 // [B, T, E]
  Var b, c;                      // [B, T, N]
  Var z;                         // [B, T, E], or undefined: no gate
  Var state;                     // fp32 [B, E, N], or undefined: zeros
  Parameter* a_log = nullptr;    // [E, N]; A = -exp(a_log)
  Parameter* d = nullptr;        // [E]
  Parameter* dt_bias = nullptr;  // [E], or nullptr
  const uint8_t* document_start = nullptr;  // [B, T]; outlives the tape
};
struct SelectiveScanOut {
  Var y;      // [B, T, E], u's dtype
  Var state;  // fp32 [B, E, N]
};
// The final state is written to `state_buffer` if that is defined.
SelectiveScanOut SelectiveScan(Tape& tape, const SelectiveScanIn& in,
                               Tensor state_buffer);

}  // namespace carry
