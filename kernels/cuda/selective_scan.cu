#include "kernels/check.h"
#include "kernels/cuda/selective_scan.cuh"
#include "kernels/cuda/selective_scan.h"

namespace carry::cuda {
namespace {

template <class T>
struct ForwardArgs {
  ScanInputs<T> in;
  const float* state_in;  // [B, E, N], or nullptr
  const float* carry;     // [B, segments, N, E]; one segment: unused
  T* out;
  int64_t out_stride;
  float* state_out;
  float* saved;
};

// One token of one channel, kStates states of it: h and the sum C h.
template <int kStates>
__device__ __forceinline__ float Step(const float* b_row, const float* c_row,
                                      const float* rate, float dt, float dtu,
                                      float* h) {
  float y = 0;
#pragma unroll
  for (int j = 0; j < kStates; j += 4) {
    float b[4], c[4];
    Load4(b_row + j, b);
    Load4(c_row + j, c);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      h[j + k] = Exp2(dt * rate[j + k]) * h[j + k] + dtu * b[k];
      y += c[k] * h[j + k];
    }
  }
  return y;
}

// grid (channel blocks, segments, B).
template <class T, int kLanes>
__global__ void __launch_bounds__(128, kLanes == 16 ? 3 : 4)
    SelectiveScanForwardKernel(const ForwardArgs<T> args) {
  constexpr int kStates = kForwardStates;
  using Tile = TileRows<kLanes * kStates>;
  Tile* tile = DynamicShared<Tile>();
  const ScanInputs<T>& in = args.in;
  const GridPlace<kLanes, kStates> place(in);
  const bool mine = place.mine;
  const int64_t e = place.e, segment = place.segment, batch = place.batch;
  const int64_t begin = place.begin, end = place.end;
  const int n0 = place.first_state();
  const int64_t tiles = (in.time + kScanTile - 1) / kScanTile;

  float rate[kStates], h[kStates];
  const float* carry = args.state_in;
  int64_t carry_at = (batch * in.channels + e) * in.states;
  int64_t carry_step = 1;
  if (in.segments > 1) {
    carry = args.carry;
    carry_at = (batch * in.segments + segment) * in.states * in.channels + e;
    carry_step = in.channels;
  }
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    const int n = n0 + j;
    rate[j] = in.Rate(e, n);
    h[j] = carry != nullptr && n < in.states ? carry[carry_at + n * carry_step]
                                             : 0.0f;
  }
  const float bias = in.Bias(e), skip = in.Skip(e);
  const int64_t row0 = batch * in.time + begin;
  const T* u_at = in.u + row0 * in.u_stride + e;
  const T* dt_at = in.dt_raw + row0 * in.dt_stride + e;
  const bool gate = in.z != nullptr;
  // Without a gate z is read all the same, from where u is.
  const T* z_at = gate ? in.z + row0 * in.z_stride + e : u_at;
  const int64_t z_stride = gate ? in.z_stride : in.u_stride;
  T* out_at = args.out + row0 * args.out_stride + e;

  for (int64_t t0 = begin; t0 < end; t0 += kScanTile) {
    const int rows =
        end - t0 < kScanTile ? static_cast<int>(end - t0) : kScanTile;
    LoadTileRows<true, true, false>(in, batch * in.time + t0, rows, tile);
    if (args.saved != nullptr && mine) {
      float* to = args.saved +
                  ((batch * tiles + t0 / kScanTile) * in.saved_states + n0) *
                      in.channels +
                  e;
#pragma unroll
      for (int j = 0; j < kStates; ++j) {
        if (j % kBackwardStates == 0 && n0 + j >= in.saved_states) break;
        *to = h[j];
        to += in.channels;
      }
    }
    // A tile's loads are all under way before the first is used.
    float u[kScanTile], dt_raw[kScanTile], z[kScanTile];
#pragma unroll
    for (int t = 0; t < kScanTile; ++t) {
      if (t >= rows) break;
      u[t] = LoadF(u_at);
      dt_raw[t] = LoadF(dt_at);
      z[t] = LoadF(z_at);
      u_at += in.u_stride, dt_at += in.dt_stride, z_at += z_stride;
    }
#pragma unroll
    for (int t = 0; t < kScanTile; ++t) {
      if (t >= rows) break;
      if (tile->starts[t] != 0) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[j] = 0.0f;
      }
      const float dt = Softplus(dt_raw[t] + bias);
      float y = Step<kStates>(tile->b[t] + n0, tile->c[t] + n0, rate, dt,
                              dt * u[t], h);
      y = place.Sum(y) + skip * u[t];
      if (gate) y *= Silu(z[t]);
      if (mine && place.part == 0) StoreF(y, out_at);
      out_at += args.out_stride;
    }
  }
  if (args.state_out != nullptr && mine && end == in.time) {
    float* to = args.state_out + (batch * in.channels + e) * in.states + n0;
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      if (n0 + j < in.states) to[j] = h[j];
    }
  }
}

template <class T, int kLanes>
LaunchStatus LaunchForward(const SelectiveScanArgs& args,
                           const SelectiveScanForwardOut& out,
                           const ScanPlan& plan, const float* carry,
                           Stream stream) {
  const ForwardArgs<T> forward = {MakeInputs<T>(args, plan),
                                  args.state_in,
                                  carry,
                                  static_cast<T*>(out.out.data),
                                  out.out.stride,
                                  out.state_out,
                                  out.saved};
  const int64_t channels = plan.threads / kLanes;
  const dim3 grid((args.channels + channels - 1) / channels, plan.segments,
                  args.batch);
  return Launch("selective_scan_forward", SelectiveScanForwardKernel<T, kLanes>,
                grid, plan.threads, sizeof(TileRows<kLanes * kForwardStates>),
                stream, forward);
}

template <class T>
LaunchStatus DispatchForward(const SelectiveScanArgs& args,
                             const SelectiveScanForwardOut& out,
                             const ScanPlan& plan, const float* carry,
                             Stream stream) {
  switch (ScanLanes(args.states, kForwardStates)) {
    case 1:
      return LaunchForward<T, 1>(args, out, plan, carry, stream);
    case 4:
      return LaunchForward<T, 4>(args, out, plan, carry, stream);
    default:
      return LaunchForward<T, 16>(args, out, plan, carry, stream);
  }
}

}  // namespace

LaunchStatus SelectiveScanForward(const SelectiveScanArgs& args,
                                  const SelectiveScanForwardOut& out,
                                  const ScanPlan& plan, float* workspace,
                                  Stream stream) {
  CARRY_CHECK(args.batch <= 65535 && plan.segments <= 65535);
  CARRY_CHECK(plan.segment_time % kScanTile == 0);
  CARRY_CHECK(args.states <= kScanMaxStates);
  CARRY_CHECK(args.dt_raw.dtype == args.u.dtype &&
              out.out.dtype == args.u.dtype);
  CARRY_CHECK(args.z.data == nullptr || args.z.dtype == args.u.dtype);
  if (plan.segments > 1) {
    float* dt_sum =
        workspace + args.batch * plan.segments * args.states * args.channels;
    const LaunchStatus summary =
        SummarizeSegments(args, plan, nullptr, workspace, dt_sum, stream);
    if (!summary.ok()) return summary;
    const LaunchStatus fold = FoldSegments(args, plan, false, args.state_in,
                                           workspace, dt_sum, stream);
    if (!fold.ok()) return fold;
  }
  return args.u.dtype == DType::kBF16
             ? DispatchForward<BFloat16>(args, out, plan, workspace, stream)
             : DispatchForward<float>(args, out, plan, workspace, stream);
}

}  // namespace carry::cuda
