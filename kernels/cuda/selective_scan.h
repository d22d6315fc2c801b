// The selective scan on a GPU: the contract of kernels/selective_scan.h on
// device pointers, with a plan, a workspace and a stream.
//
// Lanes own channels, time is sequential in a thread, states live in registers,
// and a block reads B_t and C_t once for all its channels. Where B E channels
// do not fill the machine, time is split into segments: a first pass finds each
// segment's effect on the state, (s [N], sum dt), a second folds those from the
// left, a third is the scan proper with each segment's true carry in. Backward
// is the mirror image. Only the split changes bits; the same plan gives the
// same bits every time.
//
// `saved` is [B, tiles, N', E]: the state before every tile of kScanTile
// tokens, N' = N rounded up to 8.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"

namespace carry::cuda {

// Backward keeps a tile's states in shared memory, 64 bytes a token and
// channel of 16 states; a longer tile leaves fewer warps on a multiprocessor, a
// shorter one writes more states to memory.
constexpr int kScanTile = 8;

struct ScanPlan {
  int64_t segments = 1;
  int64_t segment_time = 0;  // A multiple of kScanTile; the last may be short.
  // Threads of a block of the forward passes; a multiple of 32, at most 128.
  int threads = 128;
  // Blocks over channels each handle so many groups of channels in turn, in
  // backward: it bounds the partial sums of dB and dC.
  int64_t groups_a_block = 1;
};

// How to run a scan on a GPU of so many multiprocessors. Splits time only where
// the machine would be less than a quarter full otherwise, since a split costs
// the exponentials twice.
ScanPlan PlanSelectiveScan(int64_t batch, int64_t time, int64_t channels,
                           int64_t states, int multiprocessors);

// Floats of `saved`, and of the workspaces, which need not be initialised.
int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                               int64_t states);
int64_t SelectiveScanForwardWorkspace(const SelectiveScanArgs& args,
                                      const ScanPlan& plan);
int64_t SelectiveScanBackwardWorkspace(const SelectiveScanArgs& args,
                                       const ScanPlan& plan);

// REQUIRES B <= 65535, and u, dt_raw, z, out (and their gradients) of one type.
LaunchStatus SelectiveScanForward(const SelectiveScanArgs& args,
                                  const SelectiveScanForwardOut& out,
                                  const ScanPlan& plan, float* workspace,
                                  Stream stream);
LaunchStatus SelectiveScanBackward(const SelectiveScanArgs& args,
                                   const SelectiveScanBackwardArgs& grad,
                                   const ScanPlan& plan, float* workspace,
                                   Stream stream);

// A shard's effect on the state and on its gradient: the contract of
// kernels/selective_scan_summary.h, except that a state is followed to the
// shard's far edge however little of it is left, so that dt_sum is infinite
// only where a document starts.
int64_t SelectiveScanSummaryWorkspace(const SelectiveScanArgs& args,
                                      const ScanPlan& plan);
LaunchStatus SelectiveScanSummary(const SelectiveScanArgs& args,
                                  const ScanSummary& summary,
                                  const ScanPlan& plan, float* workspace,
                                  Stream stream);
LaunchStatus SelectiveScanGradSummary(const SelectiveScanArgs& args,
                                      const ConstMatView& dout,
                                      const ScanSummary& summary,
                                      const ScanPlan& plan, float* workspace,
                                      Stream stream);
LaunchStatus ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                              const float* a, const float* s,
                              const float* dt_sum, float* state, Stream stream);

}  // namespace carry::cuda
