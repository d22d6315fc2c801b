// What the scan's passes and its plan agree on.
#pragma once

#include "kernels/cuda/selective_scan.h"

namespace carry::cuda {

constexpr int64_t kScanMaxStates = 256;
constexpr int64_t kWarpLanes = 32;

// States that one lane holds. Forward needs registers for h and A only;
// backward for g, A and dA, and 4 kScanTile bytes of shared memory a state.
constexpr int kForwardStates = 16;
constexpr int kBackwardStates = 8;

// Lanes that share the states of a channel: 1, 4, 16 in forward and 2, 8, 32 in
// backward, for at most 16, 64, 256 states. States that are too many are zero.
constexpr int64_t ScanLanes(int64_t states, int64_t a_lane) {
  return (states <= 16 ? 16 : states <= 64 ? 64 : 256) / a_lane;
}

// States of a channel in `saved`: a lane of backward reads whole or not.
constexpr int ScanSavedStates(int64_t states) {
  return static_cast<int>((states + kBackwardStates - 1) / kBackwardStates *
                          kBackwardStates);
}

// Threads of a block in backward. With 32 lanes a channel one warp: each warp
// has sums of dB and dC in shared memory, and sm_120 has 99 KiB a block.
constexpr int ScanBackwardThreads(int64_t lanes) {
  return lanes == 32 ? 32 : 128;
}
// Channels of such a block.
constexpr int64_t ScanBackwardChannels(int64_t states) {
  const int64_t lanes = ScanLanes(states, kBackwardStates);
  return ScanBackwardThreads(lanes) / lanes;
}

// Backward's workspace, in floats.
struct BackwardLayout {
  int64_t carry;   // [B, segments, N, E]: r, then the gradient that comes in
  int64_t dt_sum;  // [B, segments, E]
  int64_t da;      // [B, segments, N, E]
  int64_t dd;      // [B, segments, E]
  int64_t dbias;   // [B, segments, E]
  int64_t dbc;     // [channel_blocks, B*T, 2N]: dB and dC
  int64_t channel_blocks;
  int64_t size;
};
BackwardLayout LayOutBackward(const SelectiveScanArgs& args,
                              const ScanPlan& plan);

}  // namespace carry::cuda
