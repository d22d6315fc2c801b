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

struct SumArgs {
  const int32_t *tokens, *order;  // sorted
  int64_t rows, vocab, dim;
  int32_t *begin, *end;  // [V]: a token's run in the sorted rows
  const float* dout;
  float* dtable;
};

__global__ void __launch_bounds__(kThreads)
    EmbeddingNoRunsKernel(const SumArgs args) {
  ForEach(args.vocab, [&](int64_t v) { args.begin[v] = args.end[v] = 0; });
}

__global__ void __launch_bounds__(kThreads)
    EmbeddingRunsKernel(const SumArgs args) {
  ForEach(args.rows, [&](int64_t i) {
    const int32_t token = args.tokens[i];
    if (i == 0 || args.tokens[i - 1] != token) {
      args.begin[token] = static_cast<int32_t>(i);
    }
    if (i + 1 == args.rows || args.tokens[i + 1] != token) {
      args.end[token] = static_cast<int32_t>(i + 1);
    }
  });
}

// grid (V, blocks over D).
__global__ void __launch_bounds__(kThreads)
    EmbeddingSumKernel(const SumArgs args) {
  const int64_t token = blockIdx.x;
  const int begin = args.begin[token], end = args.end[token];
  if (begin == end) return;
  const int64_t step = gridDim.y * int64_t{kThreads};
  for (int64_t d = blockIdx.y * int64_t{kThreads} + threadIdx.x; d < args.dim;
       d += step) {
    float* to = args.dtable + token * args.dim + d;
    const float* from = args.dout + d;
    float sum = *to;
    int i = begin;
    // Loads of several rows are on their way at once.
    constexpr int kAhead = 8;
    for (; i + kAhead <= end; i += kAhead) {
      float rows[kAhead];
#pragma unroll
      for (int k = 0; k < kAhead; ++k) {
        rows[k] = from[args.order[i + k] * args.dim];
      }
#pragma unroll
      for (int k = 0; k < kAhead; ++k) sum += rows[k];
    }
#pragma unroll 1
    for (; i < end; ++i) sum += from[args.order[i] * args.dim];
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

int64_t EmbeddingBackwardWorkspace(int64_t rows, int64_t vocab) {
  return 4 * rows + kDigits * (RunsOf(rows) + 1) + 2 * vocab;
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
  int32_t* runs = args.totals + kDigits;
  const SumArgs sum = {args.tokens, args.order,   rows, vocab, dim,
                       runs,        runs + vocab, dout, dtable};
  LaunchStatus status =
      Launch("embedding_no_runs", EmbeddingNoRunsKernel,
             GridFor(vocab, kThreads), kThreads, 0, stream, sum);
  if (!status.ok()) return status;
  status = Launch("embedding_runs", EmbeddingRunsKernel,
                  GridFor(rows, kThreads), kThreads, 0, stream, sum);
  if (!status.ok()) return status;
  const dim3 grid(vocab,
                  std::min<int64_t>((dim + kThreads - 1) / kThreads, 65535));
  return Launch("embedding_sum", EmbeddingSumKernel, grid, kThreads, 0, stream,
                sum);
}

}  // namespace carry::cuda
