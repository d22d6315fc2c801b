// What the scan's kernels share.
#pragma once

#include <cfloat>

#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/math.cuh"
#include "kernels/cuda/selective_scan_layout.h"

namespace carry::cuda {

// A in units of log2, so that exp(dt A) is Exp2(dt A'). Finite: 0 * -inf would
// be NaN.
__device__ __forceinline__ float FiniteRate(float a) {
  const float rate = a * kLog2E;
  return rate < -3e38f ? -3e38f : rate;
}

// What passes a stretch of time: exp(A dt_sum) state + effect. Of an infinite
// dt_sum nothing does, not even NaN.
__device__ __forceinline__ float PassOn(float rate, float dt_sum, float state,
                                        float effect) {
  return dt_sum == INFINITY ? effect : Exp2(dt_sum * rate) * state + effect;
}

// Inputs as the kernels take them. T: of u, dt_raw, z and out.
template <class T>
struct ScanInputs {
  int64_t time, channels, segments, segment_time;
  int states, saved_states;
  const T *u, *dt_raw, *z;  // z: or nullptr
  int64_t u_stride, dt_stride, z_stride;
  AnyMatrix b, c;
  const float *a, *d, *dt_bias;
  const uint8_t* document_start;

  __device__ __forceinline__ int64_t SegmentBegin(int64_t segment) const {
    return segment * segment_time;
  }
  __device__ __forceinline__ int64_t SegmentEnd(int64_t segment) const {
    const int64_t end = (segment + 1) * segment_time;
    return end < time ? end : time;
  }
  // 0 beyond the last state: those states stay 0.
  __device__ __forceinline__ float Rate(int64_t e, int n) const {
    return n >= states ? 0.0f : FiniteRate(a[e * states + n]);
  }
  __device__ __forceinline__ float Bias(int64_t e) const {
    return dt_bias == nullptr ? 0.0f : dt_bias[e];
  }
  __device__ __forceinline__ float Skip(int64_t e) const {
    return d == nullptr ? 0.0f : d[e];
  }
};

template <class T>
ScanInputs<T> MakeInputs(const SelectiveScanArgs& args, const ScanPlan& plan) {
  return {args.time,
          args.channels,
          plan.segments,
          plan.segment_time,
          static_cast<int>(args.states),
          ScanSavedStates(args.states),
          static_cast<const T*>(args.u.data),
          static_cast<const T*>(args.dt_raw.data),
          static_cast<const T*>(args.z.data),
          args.u.stride,
          args.dt_raw.stride,
          args.z.stride,
          ToAny(args.b),
          ToAny(args.c),
          args.a,
          args.d,
          args.dt_bias,
          args.document_start};
}

// B, C and document starts of a tile, for all channels of a block. States of
// the last lane that do not exist are 0.
template <int kStates>
struct TileRows {
  alignas(16) float b[kScanTile][kStates];
  alignas(16) float c[kScanTile][kStates];
  int starts[kScanTile];
};

// All threads of the block call. Rows beyond `rows` are not written, or (kPad)
// are 0.
template <bool kB, bool kC, bool kPad, int kStates, class T>
__device__ __forceinline__ void LoadTileRows(const ScanInputs<T>& in,
                                             int64_t row, int rows,
                                             TileRows<kStates>* tile) {
  const int filled = kPad ? kScanTile : rows;
  __syncthreads();  // Of the tile before.
  for (int i = threadIdx.x; i < filled * kStates; i += blockDim.x) {
    const int t = i / kStates, n = i % kStates;
    const bool exists = n < in.states && (!kPad || t < rows);
    if (kB) tile->b[t][n] = exists ? in.b.Load(row + t, n) : 0.0f;
    if (kC) tile->c[t][n] = exists ? in.c.Load(row + t, n) : 0.0f;
  }
  for (int t = threadIdx.x; t < filled; t += blockDim.x) {
    tile->starts[t] = in.document_start != nullptr && (!kPad || t < rows) &&
                      in.document_start[row + t] != 0;
  }
  __syncthreads();
}

// Which channel and which of its states a thread owns: lanes of a warp are
// [kLanes][channels], so that neighbours read neighbouring channels.
template <int kLanes, int kStates>
struct Place {
  static constexpr int kChannels = kWarpSize / kLanes;  // Of a warp.
  int lane, part, channel;  // `channel` within the block

  __device__ __forceinline__ Place()
      : lane(threadIdx.x % kWarpSize),
        part(lane / kChannels),
        channel(threadIdx.x / kWarpSize * kChannels + lane % kChannels) {}
  __device__ __forceinline__ int first_state() const { return part * kStates; }
  // Sums of two values over the lanes of a channel, for half the shuffles of
  // two sums: even parts get that of x, odd parts that of y.
  __device__ __forceinline__ float Sum2(float x, float y) const {
    static_assert(kLanes > 1);
    const bool odd = part % 2 != 0;
    float sum = odd ? y : x;
    sum += __shfl_xor_sync(kAllLanes, odd ? x : y, kChannels);
#pragma unroll
    for (int lanes = 2 * kChannels; lanes < kWarpSize; lanes *= 2) {
      sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    }
    return sum;
  }
  // Sum over the lanes of a channel; all get it.
  __device__ __forceinline__ float Sum(float x) const {
#pragma unroll
    for (int lanes = kChannels; lanes < kWarpSize; lanes *= 2) {
      x += __shfl_xor_sync(kAllLanes, x, lanes);
    }
    return x;
  }
};

// A thread's place in a grid of (channel blocks, segments, B). Threads beyond
// the last channel work on it too, and write nothing.
template <int kLanes, int kStates>
struct GridPlace : Place<kLanes, kStates> {
  int64_t e, segment, batch, begin, end;  // tokens [begin, end) of a sequence
  bool mine;

  template <class T>
  __device__ __forceinline__ explicit GridPlace(const ScanInputs<T>& in)
      : segment(blockIdx.y), batch(blockIdx.z) {
    const int64_t at =
        blockIdx.x * int64_t{blockDim.x / kLanes} + this->channel;
    mine = at < in.channels;
    e = mine ? at : in.channels - 1;
    begin = in.SegmentBegin(segment);
    end = in.SegmentEnd(segment);
  }
};

// 4 floats from 16-byte aligned memory.
__device__ __forceinline__ void Load4(const float* p, float* to) {
  const float4 v = *reinterpret_cast<const float4*>(p);
  to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
}
__device__ __forceinline__ void Store4(const float* from, float* p) {
  *reinterpret_cast<float4*>(p) =
      make_float4(from[0], from[1], from[2], from[3]);
}

// A segment's effect on the state, or on its gradient, folded into the carry
// that it gets. effect [B, segments, N, E] becomes the carry.
LaunchStatus FoldSegments(const SelectiveScanArgs& args, const ScanPlan& plan,
                          bool from_right, const float* carry, float* effect,
                          const float* dt_sum, Stream stream);

// Writes effect and dt_sum of every segment: of the state, or (kGrad) of its
// gradient, given dout.
LaunchStatus SummarizeSegments(const SelectiveScanArgs& args,
                               const ScanPlan& plan, const ConstMatView* dout,
                               float* effect, float* dt_sum, Stream stream);

// Backward's partial sums in its workspace (LayOutBackward) to the gradients
// that are sums: dB and dC, dA, dD and ddt_bias.
LaunchStatus SumPartials(const SelectiveScanArgs& args,
                         const SelectiveScanBackwardArgs& grad,
                         const ScanPlan& plan, const BackwardLayout& at,
                         const float* workspace, Stream stream);

}  // namespace carry::cuda
