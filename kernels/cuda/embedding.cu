#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/math.cuh"
#include "kernels/cuda/embedding.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 128;

// grid (R).
__global__ void __launch_bounds__(kThreads)
    EmbeddingForwardKernel(const int32_t* tokens, const float* table,
                           int64_t dim, float* out) {
  const int64_t row = blockIdx.x;
  const float* from = table + tokens[row] * dim;
  for (int64_t d = threadIdx.x; d < dim; d += kThreads) {
    out[row * dim + d] = from[d];
  }
}

// --- Sorting rows by token --------------------------------------------------

// A pass sorts by one digit of the tokens. A warp takes a run of rows; its
// counts of each digit, summed over all before it, say where its rows go.
constexpr int kDigitBits = 8;
constexpr int kDigits = 1 << kDigitBits;

struct SortArgs {
  const int32_t *tokens, *order;  // order: or nullptr, 0, 1, 2 ...
  int32_t *to_tokens, *to_order;
  int64_t rows, run;
  int shift;
  int32_t* counts;  // [kDigits, runs]
  int32_t* totals;  // [kDigits]

  __device__ __forceinline__ int Digit(int64_t i) const {
    return i < rows ? tokens[i] >> shift & (kDigits - 1) : 0;
  }
};
struct DigitTable {
  int32_t at[kDigits];
};

// Lanes whose row has the same digit. All lanes call.
__device__ __forceinline__ unsigned SameDigit(int digit, bool exists) {
  unsigned same = __ballot_sync(kAllLanes, exists);
#pragma unroll
  for (int bit = 0; bit < kDigitBits; ++bit) {
    const bool set = (digit >> bit & 1) != 0;
    const unsigned lanes = __ballot_sync(kAllLanes, set);
    same &= set ? lanes : ~lanes;
  }
  return same;
}

// Counts of a run's digits, or (kMove) its rows moved to where they belong.
// grid (runs), a warp each.
template <bool kMove>
__global__ void __launch_bounds__(kWarpSize)
    SortRunKernel(const SortArgs args) {
  DigitTable* table = DynamicShared<DigitTable>();
  const int lane = static_cast<int>(threadIdx.x);
  int32_t before = 0;
  for (int d0 = 0; d0 < kDigits; d0 += kWarpSize) {
    const int d = d0 + lane;
    if (kMove) {
      // Rows of all smaller digits, then those of the runs before.
      int32_t sum = args.totals[d];
      for (int step = 1; step < kWarpSize; step *= 2) {
        const int32_t left = __shfl_up_sync(kAllLanes, sum, step);
        if (lane >= step) sum += left;
      }
      table->at[d] = before + sum - args.totals[d] +
                     args.counts[d * int64_t{gridDim.x} + blockIdx.x];
      before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
    } else {
      table->at[d] = 0;
    }
  }
  __syncwarp();
  const int64_t begin = blockIdx.x * args.run;
  for (int64_t i0 = begin; i0 < begin + args.run; i0 += kWarpSize) {
    const int64_t i = i0 + lane;
    const bool exists = i < args.rows;
    const int digit = args.Digit(i);
    const unsigned same = SameDigit(digit, exists);
    const unsigned left = same & ((1u << lane) - 1);
    const int32_t at = table->at[digit];
    if (kMove && exists) {
      const int64_t to = at + __popc(left);
      args.to_tokens[to] = args.tokens[i];
      args.to_order[to] =
          args.order == nullptr ? static_cast<int32_t>(i) : args.order[i];
    }
    __syncwarp();
    if (exists && left == 0) table->at[digit] = at + __popc(same);
    __syncwarp();
  }
  if constexpr (!kMove) {
    for (int d = lane; d < kDigits; d += kWarpSize) {
      args.counts[d * int64_t{gridDim.x} + blockIdx.x] = table->at[d];
    }
  }
}

// Counts of a digit become what the runs before have of it. grid (kDigits).
__global__ void __launch_bounds__(kWarpSize)
    SortScanKernel(int32_t* counts, int64_t runs, int32_t* totals) {
  const int lane = static_cast<int>(threadIdx.x);
  int32_t* row = counts + blockIdx.x * runs;
  int32_t before = 0;
  for (int64_t i0 = 0; i0 < runs; i0 += kWarpSize) {
    const int64_t i = i0 + lane;
    const int32_t count = i < runs ? row[i] : 0;
    int32_t sum = count;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const int32_t left = __shfl_up_sync(kAllLanes, sum, step);
      if (lane >= step) sum += left;
    }
    if (i < runs) row[i] = before + sum - count;
    before += __shfl_sync(kAllLanes, sum, kWarpSize - 1);
  }
  if (lane == 0) totals[blockIdx.x] = before;
}

// --- The sum ----------------------------------------------------------------

// First of the sorted tokens that is at least `token`.
__device__ __forceinline__ int64_t LowerBound(const int32_t* tokens,
                                              int64_t rows, int64_t token) {
  int64_t low = 0, high = rows;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (tokens[middle] < token) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

struct SumArgs {
  const int32_t *tokens, *order;  // sorted
  int64_t rows, dim;
  const float* dout;
  float* dtable;
};

// grid (V, blocks over D).
__global__ void __launch_bounds__(kThreads)
    EmbeddingSumKernel(const SumArgs args) {
  const int64_t token = blockIdx.x;
  const int64_t begin = LowerBound(args.tokens, args.rows, token);
  if (begin == args.rows || args.tokens[begin] != token) return;
  const int64_t end = LowerBound(args.tokens, args.rows, token + 1);
  const int64_t step = gridDim.y * int64_t{kThreads};
  for (int64_t d = blockIdx.y * int64_t{kThreads} + threadIdx.x; d < args.dim;
       d += step) {
    float* to = args.dtable + token * args.dim + d;
    const float* from = args.dout + d;
    float sum = *to;
    // Loads of several rows are on their way at once.
    constexpr int kAhead = 8;
    for (int64_t i = begin; i < end; i += kAhead) {
      float rows[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        rows[k] = i + k < end ? from[args.order[i + k] * args.dim] : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        if (i + k < end) sum += rows[k];
      }
    }
    *to = sum;
  }
}

// Rows of a warp's run: at most some 4096 runs, whose counts are 4 MiB.
int64_t RunOf(int64_t rows) {
  constexpr int64_t kLeast = 256, kMostRuns = 4096;
  const int64_t run = std::max(kLeast, (rows + kMostRuns - 1) / kMostRuns);
  return (run + kWarpSize - 1) / kWarpSize * kWarpSize;
}
int64_t RunsOf(int64_t rows) { return (rows + RunOf(rows) - 1) / RunOf(rows); }

LaunchStatus SortPass(const SortArgs& args, Stream stream) {
  const int64_t runs = RunsOf(args.rows);
  LaunchStatus status =
      Launch("embedding_count", SortRunKernel<false>, dim3(runs), kWarpSize,
             sizeof(DigitTable), stream, args);
  if (!status.ok()) return status;
  status = Launch("embedding_sort_scan", SortScanKernel, dim3(kDigits),
                  kWarpSize, 0, stream, args.counts, runs, args.totals);
  if (!status.ok()) return status;
  return Launch("embedding_sort", SortRunKernel<true>, dim3(runs), kWarpSize,
                sizeof(DigitTable), stream, args);
}

}  // namespace

LaunchStatus EmbeddingForward(const int32_t* tokens, int64_t rows,
                              const float* table, int64_t dim, float* out,
                              Stream stream) {
  return Launch("embedding_forward", EmbeddingForwardKernel, dim3(rows),
                kThreads, 0, stream, tokens, table, dim, out);
}

int64_t EmbeddingBackwardWorkspace(int64_t rows) {
  return 4 * rows + kDigits * (RunsOf(rows) + 1);
}

LaunchStatus EmbeddingBackward(const int32_t* tokens, int64_t rows,
                               const float* dout, int64_t vocab, int64_t dim,
                               float* dtable, int32_t* workspace,
                               Stream stream) {
  CARRY_CHECK(rows >= 1 && rows <= INT32_MAX && vocab <= INT32_MAX);
  // Tokens and order, twice: a pass reads one and writes the other.
  int32_t* room[2] = {workspace, workspace + 2 * rows};
  SortArgs args = {};
  args.tokens = tokens;
  args.rows = rows;
  args.run = RunOf(rows);
  args.counts = workspace + 4 * rows;
  args.totals = args.counts + kDigits * RunsOf(rows);
  int pass = 0;
  do {
    args.shift = pass * kDigitBits;
    args.to_tokens = room[pass % 2];
    args.to_order = args.to_tokens + rows;
    const LaunchStatus status = SortPass(args, stream);
    if (!status.ok()) return status;
    args.tokens = args.to_tokens;
    args.order = args.to_order;
    ++pass;
  } while ((vocab - 1) >> (pass * kDigitBits) > 0);
  const SumArgs sum = {args.tokens, args.order, rows, dim, dout, dtable};
  const dim3 grid(vocab,
                  std::min<int64_t>((dim + kThreads - 1) / kThreads, 65535));
  return Launch("embedding_sum", EmbeddingSumKernel, grid, kThreads, 0, stream,
                sum);
}

}  // namespace carry::cuda
