// A shard's effect on the state of the selective scan, and on its gradient,
// without running the scan (equations: kernels/selective_scan.h).
//
// A shard of tokens 0 .. T-1 maps the state before it to the state after it:
//
//   h_out = P h_in + s     P_en = exp(A_en sum_t dt_te), 0 once a document
//   starts s_en  = sum_t exp(A_en sum_{k > t} dt_ke) dt_te u_te B_tn,   t from
//   the last
//           document start on
//
// and the gradient of the state after it to that of the state before it:
//
//   g_in = P g_out + r
//   r_en = sum_t exp(A_en sum_{k <= t} dt_ke) C_tn dy_te,   t before the first
//          document start;  dy = dout silu(z), or dout
//
// A summary is s (or r) [B, E, N] and dt_sum [B, E], all fp32; dt_sum is
// infinite where a document starts: P = 0.
//
// Both sums run away from the shard's edge, so that weights only fall, and
// stop where all that is left weighs less than 2^-48: what 2^20 tokens could
// still add is less than half a unit in the last place of the largest single
// term. There P counts as 0 too and dt_sum is infinite. So the cost is at most
// 10/11 of a forward scan's arithmetic and falls as shards grow beyond the
// memory of the states. Nothing is stored but the summary; a token's bytes are
// 2 E |u| read.
//
// Bits do not depend on the number of threads.
#pragma once

#include "kernels/selective_scan.h"

namespace carry {

struct ScanSummary {
  float* state;   // [B, E, N]: s or r, overwritten
  float* dt_sum;  // [B, E], overwritten
};

// Reads u, dt_raw, b, a, dt_bias, document_start of `args`.
void SelectiveScanSummary(const SelectiveScanArgs& args,
                          const ScanSummary& summary);

// Reads dt_raw, z, c, a, dt_bias, document_start of `args`. dout [B*T, E].
void SelectiveScanGradSummary(const SelectiveScanArgs& args,
                              const ConstMatView& dout,
                              const ScanSummary& summary);

// state = exp(A dt_sum) state + s for `state` [B, E, N]; a state of NaN does
// not pass an infinite dt_sum.
void ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                      const float* a, const float* s, const float* dt_sum,
                      float* state);

}  // namespace carry
