// The passes that a split of time adds, over segments of a scan or over shards.
#include "kernels/cuda/selective_scan.cuh"

namespace carry::cuda {
namespace {

template <class T>
struct SummaryArgs {
  ScanInputs<T> in;
  const T* dout;  // kGrad only
  int64_t dout_stride;
  float* effect;  // [B, segments, N, E]
  float* dt_sum;  // [B, segments, E]; infinite where a document starts
};

// kGrad false, left to right: h = a h + dt u B. kGrad true, right to left:
// g = a (g + C dy). grid (channel blocks, segments, B).
template <class T, int kLanes, bool kGrad>
__global__ void __launch_bounds__(128, 4)
    SelectiveScanSummaryKernel(const SummaryArgs<T> args) {
  constexpr int kStates = kForwardStates;
  using Tile = TileRows<kLanes * kStates>;
  Tile* tile = DynamicShared<Tile>();
  const ScanInputs<T>& in = args.in;
  const GridPlace<kLanes, kStates> place(in);
  const bool mine = place.mine;
  const int64_t e = place.e, segment = place.segment, batch = place.batch;
  const int64_t begin = place.begin, end = place.end;
  const int n0 = place.first_state();

  float rate[kStates], h[kStates];
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    rate[j] = in.Rate(e, n0 + j);
    h[j] = 0.0f;
  }
  const float bias = in.Bias(e);
  float dt_sum = 0.0f;
  const int64_t tiles = (end - begin + kScanTile - 1) / kScanTile;
  for (int64_t i = 0; i < tiles; ++i) {
    const int64_t t0 = begin + kScanTile * (kGrad ? tiles - 1 - i : i);
    const int rows =
        end - t0 < kScanTile ? static_cast<int>(end - t0) : kScanTile;
    const int64_t row0 = batch * in.time + t0;
    LoadTileRows<!kGrad, kGrad, false>(in, row0, rows, tile);
    // u, or dout and z.
    float x[kScanTile], dt_raw[kScanTile], z[kScanTile];
#pragma unroll
    for (int k = 0; k < kScanTile; ++k) {
      if (k >= rows) break;
      const int64_t row = row0 + (kGrad ? rows - 1 - k : k);
      dt_raw[k] = LoadF(in.dt_raw + row * in.dt_stride + e);
      if (kGrad) {
        x[k] = LoadF(args.dout + row * args.dout_stride + e);
        z[k] = in.z != nullptr ? LoadF(in.z + row * in.z_stride + e) : 0.0f;
      } else {
        x[k] = LoadF(in.u + row * in.u_stride + e);
      }
    }
#pragma unroll
    for (int k = 0; k < kScanTile; ++k) {
      if (k >= rows) break;
      const int t = kGrad ? rows - 1 - k : k;
      const float dt = Softplus(dt_raw[k] + bias);
      const bool start = tile->starts[t] != 0;
      dt_sum = start ? INFINITY : dt_sum + dt;
      if (!kGrad && start) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[j] = 0.0f;
      }
      float in_t = dt * x[k];
      if (kGrad) in_t = in.z != nullptr ? x[k] * Silu(z[k]) : x[k];
      const float* from = (kGrad ? tile->c[t] : tile->b[t]) + n0;
#pragma unroll
      for (int j = 0; j < kStates; j += 4) {
        float v[4];
        Load4(from + j, v);
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const float decay = Exp2(dt * rate[j + q]);
          h[j + q] = kGrad ? (h[j + q] + in_t * v[q]) * decay
                           : h[j + q] * decay + in_t * v[q];
        }
      }
      if (kGrad && start) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[j] = 0.0f;
      }
    }
  }
  if (!mine) return;  // No barrier follows.
  const int64_t fold = batch * in.segments + segment;
  float* to = args.effect + (fold * in.states + n0) * in.channels + e;
#pragma unroll
  for (int j = 0; j < kStates; ++j) {
    if (n0 + j < in.states) to[j * in.channels] = h[j];
  }
  if (place.part == 0) args.dt_sum[fold * in.channels + e] = dt_sum;
}

constexpr int kFoldThreads = 128;

struct FoldArgs {
  int64_t channels, states, segments;
  bool from_right;
  const float* a;
  const float* carry;  // [B, E, N], or nullptr
  float* effect;       // [B, segments, N, E]; becomes each segment's carry
  const float* dt_sum;
};

// A thread a channel and state. grid (blocks over N E, B).
__global__ void __launch_bounds__(kFoldThreads)
    FoldSegmentsKernel(const FoldArgs args) {
  const int64_t size = args.states * args.channels;
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= size) return;
  const int64_t n = i / args.channels, e = i % args.channels;
  const int64_t batch = blockIdx.y;
  const float rate = FiniteRate(args.a[e * args.states + n]);
  float carry = 0.0f;
  if (args.carry != nullptr) {
    carry = args.carry[(batch * args.channels + e) * args.states + n];
  }
  for (int64_t k = 0; k < args.segments; ++k) {
    const int64_t fold =
        batch * args.segments + (args.from_right ? args.segments - 1 - k : k);
    float* at = args.effect + fold * size + i;
    const float effect = *at;
    *at = carry;
    const float dt = args.dt_sum[fold * args.channels + e];
    carry = PassOn(rate, dt, carry, effect);
  }
}

struct TotalArgs {
  FoldArgs fold;
  ScanSummary summary;
};

// All segments as one. A thread a channel and state. grid (blocks over N E, B).
__global__ void __launch_bounds__(kFoldThreads)
    TotalKernel(const TotalArgs args) {
  const FoldArgs& fold = args.fold;
  const int64_t size = fold.states * fold.channels;
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  if (i >= size) return;
  const int64_t n = i / fold.channels, e = i % fold.channels;
  const int64_t batch = blockIdx.y;
  const float rate = FiniteRate(fold.a[e * fold.states + n]);
  float effect = 0.0f, dt_sum = 0.0f;
  for (int64_t k = 0; k < fold.segments; ++k) {
    const int64_t at =
        batch * fold.segments + (fold.from_right ? fold.segments - 1 - k : k);
    const float dt = fold.dt_sum[at * fold.channels + e];
    effect = PassOn(rate, dt, effect, fold.effect[at * size + i]);
    dt_sum += dt;
  }
  const int64_t channel = batch * fold.channels + e;
  args.summary.state[channel * fold.states + n] = effect;
  if (n == 0) args.summary.dt_sum[channel] = dt_sum;
}

struct ApplyArgs {
  int64_t size, states, channels;  // size: B E N
  const float *a, *s, *dt_sum;
  float* state;
};
__global__ void __launch_bounds__(kFoldThreads)
    ApplyScanSummaryKernel(const ApplyArgs args) {
  ForEach(args.size, [&](int64_t i) {
    const int64_t channel = i / args.states;
    const int64_t at = i % (args.states * args.channels);
    args.state[i] = PassOn(FiniteRate(args.a[at]), args.dt_sum[channel],
                           args.state[i], args.s[i]);
  });
}

template <class T, int kLanes>
LaunchStatus LaunchSummary(const SelectiveScanArgs& args, const ScanPlan& plan,
                           const ConstMatView* dout, float* effect,
                           float* dt_sum, Stream stream) {
  const bool grad = dout != nullptr;
  const SummaryArgs<T> summary = {
      MakeInputs<T>(args, plan),
      grad ? static_cast<const T*>(dout->data) : nullptr,
      grad ? dout->stride : 0, effect, dt_sum};
  const int64_t channels = plan.threads / kLanes;
  const dim3 grid((args.channels + channels - 1) / channels, plan.segments,
                  args.batch);
  return Launch("selective_scan_summary",
                grad ? SelectiveScanSummaryKernel<T, kLanes, true>
                     : SelectiveScanSummaryKernel<T, kLanes, false>,
                grid, plan.threads, sizeof(TileRows<kLanes * kForwardStates>),
                stream, summary);
}

template <class T>
LaunchStatus DispatchSummary(const SelectiveScanArgs& args,
                             const ScanPlan& plan, const ConstMatView* dout,
                             float* effect, float* dt_sum, Stream stream) {
  switch (ScanLanes(args.states, kForwardStates)) {
    case 1:
      return LaunchSummary<T, 1>(args, plan, dout, effect, dt_sum, stream);
    case 4:
      return LaunchSummary<T, 4>(args, plan, dout, effect, dt_sum, stream);
    default:
      return LaunchSummary<T, 16>(args, plan, dout, effect, dt_sum, stream);
  }
}

dim3 FoldGrid(const SelectiveScanArgs& args) {
  return dim3((args.states * args.channels + kFoldThreads - 1) / kFoldThreads,
              args.batch);
}

LaunchStatus Summarize(const SelectiveScanArgs& args, const ConstMatView* dout,
                       const ScanSummary& summary, const ScanPlan& plan,
                       float* workspace, Stream stream) {
  float* effect = workspace;
  float* dt_sum =
      effect + args.batch * plan.segments * args.states * args.channels;
  const LaunchStatus status =
      SummarizeSegments(args, plan, dout, effect, dt_sum, stream);
  if (!status.ok()) return status;
  const TotalArgs total = {{args.channels, args.states, plan.segments,
                            dout != nullptr, args.a, nullptr, effect, dt_sum},
                           summary};
  return Launch("selective_scan_total", TotalKernel, FoldGrid(args),
                kFoldThreads, 0, stream, total);
}

}  // namespace

LaunchStatus FoldSegments(const SelectiveScanArgs& args, const ScanPlan& plan,
                          bool from_right, const float* carry, float* effect,
                          const float* dt_sum, Stream stream) {
  const FoldArgs fold = {args.channels, args.states, plan.segments, from_right,
                         args.a,        carry,       effect,        dt_sum};
  return Launch("selective_scan_fold", FoldSegmentsKernel, FoldGrid(args),
                kFoldThreads, 0, stream, fold);
}

LaunchStatus SummarizeSegments(const SelectiveScanArgs& args,
                               const ScanPlan& plan, const ConstMatView* dout,
                               float* effect, float* dt_sum, Stream stream) {
  return args.u.dtype == DType::kBF16
             ? DispatchSummary<BFloat16>(args, plan, dout, effect, dt_sum,
                                         stream)
             : DispatchSummary<float>(args, plan, dout, effect, dt_sum, stream);
}

LaunchStatus SelectiveScanSummary(const SelectiveScanArgs& args,
                                  const ScanSummary& summary,
                                  const ScanPlan& plan, float* workspace,
                                  Stream stream) {
  return Summarize(args, nullptr, summary, plan, workspace, stream);
}

LaunchStatus SelectiveScanGradSummary(const SelectiveScanArgs& args,
                                      const ConstMatView& dout,
                                      const ScanSummary& summary,
                                      const ScanPlan& plan, float* workspace,
                                      Stream stream) {
  return Summarize(args, &dout, summary, plan, workspace, stream);
}

LaunchStatus ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                              const float* a, const float* s,
                              const float* dt_sum, float* state,
                              Stream stream) {
  const ApplyArgs args = {
      batch * channels * states, states, channels, a, s, dt_sum, state};
  return Launch("apply_scan_summary", ApplyScanSummaryKernel,
                GridFor(args.size, kFoldThreads), kFoldThreads, 0, stream,
                args);
}

}  // namespace carry::cuda
