#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_scan_layout.h"

namespace carry::cuda {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

ScanPlan PlanSelectiveScan(int64_t batch, int64_t time, int64_t channels,
                           int64_t states, int multiprocessors) {
  CARRY_CHECK(batch >= 1 && time >= 1 && channels >= 1);
  CARRY_CHECK(states >= 1 && states <= kScanMaxStates && multiprocessors >= 1);
  // Warps that hide latency: 16 a multiprocessor.
  constexpr int64_t kWarpsWanted = 16;
  // A segment pays its two passes over a few tiles at least.
  constexpr int64_t kLeastSegment = 64;
  // Partial sums of dB and dC: rows of 2 N floats a token. More would weigh as
  // much as the activations.
  constexpr int64_t kMostPartials = 64;
  ScanPlan plan;
  const int64_t lanes = ScanLanes(states, kForwardStates);
  const int64_t warps = batch * CeilDiv(channels, kWarpLanes / lanes);
  const int64_t wanted = kWarpsWanted * multiprocessors;
  plan.segment_time = CeilDiv(time, kScanTile) * kScanTile;
  if (warps * 4 < wanted) {
    const int64_t split =
        std::min(CeilDiv(wanted, warps), CeilDiv(time, kLeastSegment));
    // Two or three segments gain less than the first pass costs.
    if (split >= 4) {
      plan.segment_time =
          CeilDiv(CeilDiv(time, split), int64_t{kScanTile}) * kScanTile;
      plan.segments = CeilDiv(time, plan.segment_time);
    }
  }
  const int64_t group = ScanBackwardChannels(states);
  plan.groups_a_block = CeilDiv(CeilDiv(channels, group), kMostPartials);
  return plan;
}

int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                               int64_t states) {
  return batch * CeilDiv(time, kScanTile) * ScanSavedStates(states) * channels;
}

int64_t SelectiveScanForwardWorkspace(const SelectiveScanArgs& args,
                                      const ScanPlan& plan) {
  if (plan.segments == 1) return 0;
  return args.batch * plan.segments * (args.states + 1) * args.channels;
}

int64_t SelectiveScanSummaryWorkspace(const SelectiveScanArgs& args,
                                      const ScanPlan& plan) {
  return args.batch * plan.segments * (args.states + 1) * args.channels;
}

BackwardLayout LayOutBackward(const SelectiveScanArgs& args,
                              const ScanPlan& plan) {
  const int64_t group = ScanBackwardChannels(args.states);
  const int64_t folds = args.batch * plan.segments;
  BackwardLayout at;
  at.channel_blocks = CeilDiv(args.channels, group * plan.groups_a_block);
  at.carry = 0;
  at.dt_sum = at.carry;
  if (plan.segments > 1) at.dt_sum += folds * args.states * args.channels;
  at.da = at.dt_sum;
  if (plan.segments > 1) at.da += folds * args.channels;
  at.dd = at.da + folds * args.states * args.channels;
  at.dbias = at.dd + folds * args.channels;
  at.dbc = at.dbias + folds * args.channels;
  at.size =
      at.dbc + at.channel_blocks * args.batch * args.time * 2 * args.states;
  return at;
}

int64_t SelectiveScanBackwardWorkspace(const SelectiveScanArgs& args,
                                       const ScanPlan& plan) {
  return LayOutBackward(args, plan).size;
}

}  // namespace carry::cuda
