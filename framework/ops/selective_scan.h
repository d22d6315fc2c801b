// The selective scan with a carry, kernels/selective_scan.h.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"
#include "kernels/selective_scan_summary.h"

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

// A = -exp(a_log), fp32 [E, N].
Tensor ScanRates(Parameter& a_log);

// The scan's effect on a state and, with the gradient of `y` at hand, on the
// gradient of a state: kernels/selective_scan_summary.h. in.state is not read.
void SummarizeScan(const SelectiveScanIn& in, const ScanSummary& summary);
void SummarizeScanGrad(const SelectiveScanIn& in, const Var& y,
                       const ScanSummary& summary);

}  // namespace carry
