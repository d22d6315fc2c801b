#include "kernels/check.h"
#include "kernels/cuda/selective_scan.cuh"

namespace carry::cuda {
namespace {

template <class T>
struct BackwardArgs {
  ScanInputs<T> in;
  const T* dout;
  const float* dstate_out;  // [B, E, N], or nullptr
  const float* carry;       // [B, segments, N, E]; one segment: unused
  const float* saved;
  T *du, *ddt_raw, *dz;
  int64_t dout_stride, du_stride, ddt_stride, dz_stride;
  float* dstate_in;
  int64_t groups_a_block;
  float *da, *dd, *dbias, *dbc;  // Partial sums: BackwardLayout.
};

template <int kLanes>
struct BackwardShared {
  static constexpr int kThreads = ScanBackwardThreads(kLanes);
  static constexpr int kWarps = kThreads / kWarpSize;
  static constexpr int kChannels = kThreads / kLanes;
  static constexpr int kStates = kLanes * kBackwardStates;
  // A lane's row of dB and dC, 4 floats apart so that 8 lanes that store 16
  // bytes touch all 32 banks; parts are shifted so that two of them that are
  // read together do not share banks.
  static constexpr int kRow = 2 * kBackwardStates + 4;
  static constexpr int kShift = kWarpSize / kLanes * kRow % 32 == 0 ? 16 : 0;

  TileRows<kStates> tile;
  // h before each token.
  alignas(16) float h[kScanTile][kBackwardStates / 4][kThreads][4];
  alignas(16) float rows[kWarps][kWarpSize * kRow + kLanes * kShift];
  float sums[kWarps][kScanTile][2 * kStates];  // dB, dC of a warp's channels
  // Inputs; then, in the same places, ddt_raw, du, dy, dz.
  float dt[kScanTile][kChannels];
  float u[kScanTile][kChannels];
  float dy[kScanTile][kChannels];
  float dz[kScanTile][kChannels];  // dout silu'(z), then times y
  float slope[kScanTile][kChannels];
};

// The part of a thread that walks over memory: one channel, every kLanes-th
// token of a tile, tile by tile from the right. Not the channel whose states it
// owns.
template <class T, int kLanes>
struct Mover {
  using Shared = BackwardShared<kLanes>;
  int channel, first;
  int64_t e;
  bool mine, gate;
  float bias;
  const T *dt_at, *u_at, *dout_at, *z_at;
  T *ddt_at, *du_at, *dz_at;
  float dd = 0.0f, dbias = 0.0f;

  // row0: the first of the last tile.
  __device__ __forceinline__ Mover(const BackwardArgs<T>& args, int64_t e0,
                                   int64_t row0)
      : channel(threadIdx.x % Shared::kChannels),
        first(threadIdx.x / Shared::kChannels),
        e(e0 + channel),
        mine(e < args.in.channels),
        gate(args.in.z != nullptr) {
    const ScanInputs<T>& in = args.in;
    if (!mine) e = in.channels - 1;
    bias = in.Bias(e);
    const int64_t row = row0 + first;
    dt_at = in.dt_raw + row * in.dt_stride + e;
    u_at = in.u + row * in.u_stride + e;
    dout_at = args.dout + row * args.dout_stride + e;
    ddt_at = args.ddt_raw + row * args.ddt_stride + e;
    du_at = args.du + row * args.du_stride + e;
    z_at = gate ? in.z + row * in.z_stride + e : u_at;
    dz_at = gate ? args.dz + row * args.dz_stride + e : du_at;
  }

  // Channels and tokens that do not exist have inputs of 0, and tokens steps of
  // 0, which change neither states nor gradients.
  template <bool kFull>
  __device__ __forceinline__ void Load(const BackwardArgs<T>& args, int rows,
                                       Shared* shared) {
    const ScanInputs<T>& in = args.in;
    const T *dt_t = dt_at, *u_t = u_at, *dout_t = dout_at, *z_t = z_at;
#pragma unroll
    for (int k = 0; k < kScanTile; k += kLanes) {
      const int t = k + first;
      if (kLanes > kScanTile && t >= kScanTile) break;
      float u = 0.0f, dy = 0.0f, dz = 0.0f;
      SoftplusAndSlope dt = {0.0f, 0.0f};
      if (kFull || t < rows) {
        dt = SoftplusWithSlope(LoadF(dt_t) + bias);
        u = mine ? LoadF(u_t) : 0.0f;
        dy = mine ? LoadF(dout_t) : 0.0f;
        if (gate) {
          const float z = LoadF(z_t);
          const float s = Sigmoid(z);
          dz = dy * SiluSlope(z, s);
          dy *= z * s;
        }
      }
      dt_t += kLanes * in.dt_stride;
      u_t += kLanes * in.u_stride;
      dout_t += kLanes * args.dout_stride;
      z_t += kLanes * in.z_stride;
      shared->dt[t][channel] = dt.value;
      shared->slope[t][channel] = dt.slope;
      shared->u[t][channel] = u;
      shared->dy[t][channel] = dy;
      shared->dz[t][channel] = dz;
      dd += dy * u;
    }
    dt_at -= kScanTile * in.dt_stride;
    u_at -= kScanTile * in.u_stride;
    dout_at -= kScanTile * args.dout_stride;
    z_at -= kScanTile * in.z_stride;
  }

  __device__ __forceinline__ void Store(const BackwardArgs<T>& args, int rows,
                                        const Shared& shared) {
    T *ddt_t = ddt_at, *du_t = du_at, *dz_t = dz_at;
    if (mine) {
#pragma unroll
      for (int k = 0; k < kScanTile; k += kLanes) {
        const int t = k + first;
        if (t >= rows) break;
        const float ddt = shared.dt[t][channel];
        dbias += ddt;
        StoreF(ddt, ddt_t);
        StoreF(shared.u[t][channel], du_t);
        if (gate) StoreF(shared.dz[t][channel], dz_t);
        ddt_t += kLanes * args.ddt_stride;
        du_t += kLanes * args.du_stride;
        dz_t += kLanes * args.dz_stride;
      }
    }
    ddt_at -= kScanTile * args.ddt_stride;
    du_at -= kScanTile * args.du_stride;
    dz_at -= kScanTile * args.dz_stride;
  }
};

// The part that owns kBackwardStates states of one channel.
template <class T, int kLanes>
struct Owner {
  using Shared = BackwardShared<kLanes>;
  static constexpr int kStates = kBackwardStates;
  Place<kLanes, kStates> place;
  int64_t e;
  bool mine;
  float skip;
  float rate[kStates], g[kStates], da[kStates];

  __device__ __forceinline__ Owner(const BackwardArgs<T>& args, int64_t e0)
      : e(e0 + place.channel), mine(e < args.in.channels) {
    const ScanInputs<T>& in = args.in;
    if (!mine) e = in.channels - 1;
    skip = in.Skip(e);
    const int64_t batch = blockIdx.z, segment = blockIdx.y;
    const float* carry = args.dstate_out;
    int64_t at = (batch * in.channels + e) * in.states;
    int64_t step = 1;
    if (in.segments > 1) {
      carry = args.carry;
      at = (batch * in.segments + segment) * in.states * in.channels + e;
      step = in.channels;
    }
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      const int n = place.first_state() + j;
      rate[j] = in.Rate(e, n);
      g[j] = mine && carry != nullptr && n < in.states ? carry[at + n * step]
                                                       : 0.0f;
      da[j] = 0.0f;
    }
  }

  // h before the tile. Lanes beyond the last state, and channels beyond the
  // last, read those of others: nothing comes of them.
  __device__ __forceinline__ void LoadSaved(const BackwardArgs<T>& args,
                                            int64_t t0, float* h) const {
    const ScanInputs<T>& in = args.in;
    const int64_t tiles = (in.time + kScanTile - 1) / kScanTile;
    const int states = in.saved_states;
    const int n0 = place.first_state() < states ? place.first_state() : 0;
    const float* from =
        args.saved +
        ((blockIdx.z * tiles + t0 / kScanTile) * states + n0) * in.channels + e;
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      h[j] = *from;
      from += in.channels;
    }
  }

  // The tile's states again, each kept before its token; and dz.
  __device__ __forceinline__ void Recompute(bool gate, float* h,
                                            Shared* shared) const {
    const int n0 = place.first_state(), channel = place.channel;
#pragma unroll
    for (int t = 0; t < kScanTile; ++t) {
      if (shared->tile.starts[t] != 0) {
#pragma unroll
        for (int j = 0; j < kStates; ++j) h[j] = 0.0f;
      }
      const float dt = shared->dt[t][channel], u = shared->u[t][channel];
      const float dtu = dt * u;
      float y = 0.0f;
#pragma unroll
      for (int j = 0; j < kStates; j += 4) {
        float b[4], c[4];
        Load4(&shared->tile.b[t][n0 + j], b);
        Load4(&shared->tile.c[t][n0 + j], c);
        Store4(h + j, shared->h[t][j / 4][threadIdx.x]);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          h[j + k] = Exp2(dt * rate[j + k]) * h[j + k] + dtu * b[k];
          y += c[k] * h[j + k];
        }
      }
      if (gate) {
        y = place.Sum(y) + skip * u;
        if (place.part == 0) shared->dz[t][channel] *= y;
      }
    }
  }

  // One token, right to left. Writes the lane's dB and dC to its row.
  __device__ __forceinline__ void Step(int t, Shared* shared, float* row) {
    const int n0 = place.first_state(), channel = place.channel;
    const bool start = shared->tile.starts[t] != 0;
    const float dt = shared->dt[t][channel], u = shared->u[t][channel];
    const float dy = shared->dy[t][channel];
    const float dtu = dt * u;
    float gb = 0.0f, ga = 0.0f;
#pragma unroll
    for (int j = 0; j < kStates; j += 4) {
      float b[4], c[4], h[4], db[4], dc[4];
      Load4(&shared->tile.b[t][n0 + j], b);
      Load4(&shared->tile.c[t][n0 + j], c);
      Load4(shared->h[t][j / 4][threadIdx.x], h);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float decay = Exp2(dt * rate[j + k]);
        const float kept = decay * h[k];
        g[j + k] += c[k] * dy;
        dc[k] = dy * (kept + dtu * b[k]);
        db[k] = g[j + k] * dtu;
        gb += g[j + k] * b[k];
        const float gk = g[j + k] * kept;
        ga += gk * rate[j + k];
        da[j + k] += gk * dt;
        g[j + k] *= decay;
      }
      Store4(db, row + j);
      Store4(dc, row + kStates + j);
    }
    if (start) {
#pragma unroll
      for (int j = 0; j < kStates; ++j) g[j] = 0.0f;
    }
    const float sum = place.Sum2(gb, u * gb + kLn2 * ga);
    // All lanes of the channel have read its dt, u and dy, and all lanes of the
    // warp have written their rows.
    __syncwarp();
    if (place.part == 0) shared->u[t][channel] = dt * sum + skip * dy;
    if (place.part == 1) {
      shared->dt[t][channel] = sum * shared->slope[t][channel];
    }
  }
};

// Sums the rows of a warp's lanes over its channels, for one token.
template <int kLanes>
__device__ __forceinline__ void SumRows(const float* rows, float* sums) {
  using Shared = BackwardShared<kLanes>;
  constexpr int kChannels = kWarpSize / kLanes;
  const int lane = threadIdx.x % kWarpSize;
#pragma unroll
  for (int i = 0; i < 2 * Shared::kStates; i += kWarpSize) {
    const int part = (i + lane) / (2 * kBackwardStates);
    const int v = (i + lane) % (2 * kBackwardStates);
    const float* from =
        rows + part * (kChannels * Shared::kRow + Shared::kShift) + v;
    float sum = from[0];
#pragma unroll
    for (int k = 1; k < kChannels; ++k) sum += from[k * Shared::kRow];
    const int n = part * kBackwardStates + v % kBackwardStates;
    sums[v / kBackwardStates * Shared::kStates + n] = sum;
  }
}

// Sums of the block's warps to its partial sums of dB and dC, which later
// groups of channels add to.
template <class T, int kLanes>
__device__ __forceinline__ void StoreSums(const BackwardArgs<T>& args,
                                          int64_t row0, int rows, bool add,
                                          const BackwardShared<kLanes>& from) {
  using Shared = BackwardShared<kLanes>;
  const int64_t states = args.in.states;
  const int64_t all_rows = gridDim.z * args.in.time;
  constexpr int kWidth = 2 * Shared::kStates;
  constexpr int kRows =
      Shared::kThreads > kWidth ? Shared::kThreads / kWidth : 1;
  const int t0 = threadIdx.x / kWidth;
#pragma unroll
  for (int v = threadIdx.x % kWidth; v < kWidth; v += Shared::kThreads) {
    const int n = v % Shared::kStates;
    if (n >= states) continue;
    float* at = args.dbc + (blockIdx.x * all_rows + row0 + t0) * 2 * states +
                v / Shared::kStates * states + n;
#pragma unroll
    for (int k = 0; k < kScanTile; k += kRows) {
      const int t = t0 + k;
      if (t >= rows) break;
      float sum = from.sums[0][t][v];
#pragma unroll
      for (int w = 1; w < Shared::kWarps; ++w) sum += from.sums[w][t][v];
      *at = add ? *at + sum : sum;
      at += kRows * 2 * states;
    }
  }
}

// dd and dbias of the block's channels, from the threads that moved them.
template <class T, int kLanes>
__device__ __forceinline__ void StoreChannelSums(
    const BackwardArgs<T>& args, const Mover<T, kLanes>& mover,
    BackwardShared<kLanes>* shared) {
  using Shared = BackwardShared<kLanes>;
  // Room that the tiles no longer use: two floats a thread.
  float* room = &shared->h[0][0][0][0];
  __syncthreads();
  room[threadIdx.x] = mover.dd;
  room[Shared::kThreads + threadIdx.x] = mover.dbias;
  __syncthreads();
  if (mover.first == 0 && mover.mine) {
    float dd = 0.0f, dbias = 0.0f;
    for (int k = 0; k < kLanes; ++k) {
      dd += room[k * Shared::kChannels + mover.channel];
      dbias += room[Shared::kThreads + k * Shared::kChannels + mover.channel];
    }
    const int64_t fold = blockIdx.z * args.in.segments + blockIdx.y;
    args.dd[fold * args.in.channels + mover.e] = dd;
    args.dbias[fold * args.in.channels + mover.e] = dbias;
  }
  __syncthreads();
}

// grid (channel blocks, segments, B).
template <class T, int kLanes>
__global__ void __launch_bounds__(ScanBackwardThreads(kLanes), 3)
    SelectiveScanBackwardKernel(const BackwardArgs<T> args) {
  using Shared = BackwardShared<kLanes>;
  constexpr int kStates = kBackwardStates;
  Shared* shared = DynamicShared<Shared>();
  const ScanInputs<T>& in = args.in;
  const int64_t segment = blockIdx.y, batch = blockIdx.z;
  const int64_t begin = in.SegmentBegin(segment), end = in.SegmentEnd(segment);
  const int warp = threadIdx.x / kWarpSize;

  for (int64_t group = 0; group < args.groups_a_block; ++group) {
    const int64_t e0 =
        (blockIdx.x * args.groups_a_block + group) * Shared::kChannels;
    if (e0 >= in.channels) break;  // The whole block.
    const int64_t last = begin + (end - begin - 1) / kScanTile * kScanTile;
    Mover<T, kLanes> mover(args, e0, batch * in.time + last);
    Owner<T, kLanes> owner(args, e0);
    float* row = shared->rows[warp] + owner.place.lane * Shared::kRow +
                 owner.place.part * Shared::kShift;
    for (int64_t t0 = last; t0 >= begin; t0 -= kScanTile) {
      const int rows =
          end - t0 < kScanTile ? static_cast<int>(end - t0) : kScanTile;
      const int64_t row0 = batch * in.time + t0;
      float h[kStates];
      owner.LoadSaved(args, t0, h);
      LoadTileRows<true, true, true>(in, row0, rows, &shared->tile);
      if (rows == kScanTile) {
        mover.template Load<true>(args, rows, shared);
      } else {
        mover.template Load<false>(args, rows, shared);
      }
      __syncthreads();
      owner.Recompute(in.z != nullptr, h, shared);
#pragma unroll 4
      for (int t = kScanTile - 1; t >= 0; --t) {
        __syncwarp();  // Rows of the token before were read.
        owner.Step(t, shared, row);
        SumRows<kLanes>(shared->rows[warp], shared->sums[warp][t]);
      }
      __syncthreads();
      mover.Store(args, rows, *shared);
      StoreSums<T, kLanes>(args, row0, rows, group > 0, *shared);
    }
    StoreChannelSums<T, kLanes>(args, mover, shared);
    if (!owner.mine) continue;  // The barriers of a group come after this.
    const int n0 = owner.place.first_state();
    const int64_t fold = batch * in.segments + segment;
    float* da = args.da + (fold * in.states + n0) * in.channels + owner.e;
    float* dstate = nullptr;
    if (args.dstate_in != nullptr && segment == 0) {
      dstate =
          args.dstate_in + (batch * in.channels + owner.e) * in.states + n0;
    }
#pragma unroll
    for (int j = 0; j < kStates; ++j) {
      if (n0 + j >= in.states) continue;
      da[j * in.channels] = owner.da[j];
      if (dstate != nullptr) dstate[j] = owner.g[j];
    }
  }
}

template <class T, int kLanes>
LaunchStatus LaunchBackward(const SelectiveScanArgs& args,
                            const SelectiveScanBackwardArgs& grad,
                            const ScanPlan& plan, const BackwardLayout& at,
                            float* workspace, Stream stream) {
  const BackwardArgs<T> backward = {MakeInputs<T>(args, plan),
                                    static_cast<const T*>(grad.dout.data),
                                    grad.dstate_out,
                                    workspace + at.carry,
                                    grad.saved,
                                    static_cast<T*>(grad.du.data),
                                    static_cast<T*>(grad.ddt_raw.data),
                                    static_cast<T*>(grad.dz.data),
                                    grad.dout.stride,
                                    grad.du.stride,
                                    grad.ddt_raw.stride,
                                    grad.dz.stride,
                                    grad.dstate_in,
                                    plan.groups_a_block,
                                    workspace + at.da,
                                    workspace + at.dd,
                                    workspace + at.dbias,
                                    workspace + at.dbc};
  const dim3 grid(at.channel_blocks, plan.segments, args.batch);
  return Launch("selective_scan_backward",
                SelectiveScanBackwardKernel<T, kLanes>, grid,
                ScanBackwardThreads(kLanes), sizeof(BackwardShared<kLanes>),
                stream, backward);
}

template <class T>
LaunchStatus DispatchBackward(const SelectiveScanArgs& args,
                              const SelectiveScanBackwardArgs& grad,
                              const ScanPlan& plan, const BackwardLayout& at,
                              float* workspace, Stream stream) {
  switch (ScanLanes(args.states, kBackwardStates)) {
    case 2:
      return LaunchBackward<T, 2>(args, grad, plan, at, workspace, stream);
    case 8:
      return LaunchBackward<T, 8>(args, grad, plan, at, workspace, stream);
    default:
      return LaunchBackward<T, 32>(args, grad, plan, at, workspace, stream);
  }
}

}  // namespace

LaunchStatus SelectiveScanBackward(const SelectiveScanArgs& args,
                                   const SelectiveScanBackwardArgs& grad,
                                   const ScanPlan& plan, float* workspace,
                                   Stream stream) {
  const DType type = args.u.dtype;
  CARRY_CHECK(args.batch <= 65535 && plan.segments <= 65535);
  CARRY_CHECK(plan.segment_time % kScanTile == 0 && grad.saved != nullptr);
  CARRY_CHECK(grad.dout.dtype == type && grad.du.dtype == type &&
              grad.ddt_raw.dtype == type && args.dt_raw.dtype == type);
  CARRY_CHECK((args.z.data == nullptr) == (grad.dz.data == nullptr));
  const BackwardLayout at = LayOutBackward(args, plan);
  if (plan.segments > 1) {
    float* carry = workspace + at.carry;
    float* dt_sum = workspace + at.dt_sum;
    const LaunchStatus summary =
        SummarizeSegments(args, plan, &grad.dout, carry, dt_sum, stream);
    if (!summary.ok()) return summary;
    const LaunchStatus fold =
        FoldSegments(args, plan, true, grad.dstate_out, carry, dt_sum, stream);
    if (!fold.ok()) return fold;
  }
  const LaunchStatus status =
      type == DType::kBF16
          ? DispatchBackward<BFloat16>(args, grad, plan, at, workspace, stream)
          : DispatchBackward<float>(args, grad, plan, at, workspace, stream);
  if (!status.ok()) return status;
  return SumPartials(args, grad, plan, at, workspace, stream);
}

}  // namespace carry::cuda
