#include <algorithm>

#include "kernels/check.h"
#include "kernels/cuda/device/element.cuh"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/device/reduce.cuh"
#include "kernels/cuda/elementwise.h"

namespace carry::cuda {
namespace {

constexpr int kThreads = 256;

template <class From, class To>
__global__ void __launch_bounds__(kThreads)
    CastKernel(const From* src, To* dst, int64_t n) {
  ForEach(n, [&](int64_t i) { StoreF(LoadF(src + i), dst + i); });
}

template <class From>
__global__ void __launch_bounds__(kThreads)
    AddToKernel(float* dst, const From* src, int64_t n) {
  ForEach(n, [&](int64_t i) { dst[i] += LoadF(src + i); });
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    AddRowKernel(T* y, int64_t rows, int64_t cols, int64_t stride,
                 const float* row) {
  ForEachOf(rows, cols, [&](int64_t r, int64_t c) {
    T* at = y + r * stride + c;
    StoreF(LoadF(at) + row[c], at);
  });
}

struct AddMatrixArgs {
  int64_t rows, cols, dst_stride, src_stride;
};
template <class To, class From>
__global__ void __launch_bounds__(kThreads)
    AddMatrixKernel(To* dst, const From* src, const AddMatrixArgs args) {
  ForEachOf(args.rows, args.cols, [&](int64_t r, int64_t c) {
    To* at = dst + r * args.dst_stride + c;
    StoreF(LoadF(at) + LoadF(src + r * args.src_stride + c), at);
  });
}

__global__ void __launch_bounds__(kThreads)
    NegativeExpKernel(const float* x, float* y, int64_t n) {
  // In double, as on the CPU: the nearest float.
  ForEach(n, [&](int64_t i) {
    y[i] = static_cast<float>(-exp(static_cast<double>(x[i])));
  });
}

__global__ void __launch_bounds__(kThreads)
    AddProductKernel(float* dst, const float* a, const float* b, int64_t n) {
  ForEach(n, [&](int64_t i) { dst[i] += a[i] * b[i]; });
}

// Threads of a block for column sums: [kLanes rows][kColumns].
constexpr int kColumns = 32;
constexpr int kLanes = kThreads / kColumns;

struct ColumnRows {
  float sums[kLanes][kColumns];
};

// Sums of a range of rows: partial [ranges, cols]. grid (columns, ranges).
template <class T>
__global__ void __launch_bounds__(kThreads)
    ColumnSumsKernel(const T* x, int64_t rows, int64_t cols, int64_t stride,
                     int64_t range, float* partial) {
  ColumnRows* room = DynamicShared<ColumnRows>();
  const int lane = threadIdx.x / kColumns, column = threadIdx.x % kColumns;
  const int64_t c = blockIdx.x * int64_t{kColumns} + column;
  const int64_t begin = blockIdx.y * range;
  const int64_t end = begin + range < rows ? begin + range : rows;
  float sum = 0.0f;
  if (c < cols) {
    for (int64_t r = begin + lane; r < end; r += kLanes) {
      sum += LoadF(x + r * stride + c);
    }
  }
  room->sums[lane][column] = sum;
  __syncthreads();
  if (lane != 0 || c >= cols) return;  // No barrier follows.
  for (int k = 1; k < kLanes; ++k) sum += room->sums[k][column];
  partial[blockIdx.y * cols + c] = sum;
}

__global__ void __launch_bounds__(kThreads)
    AddPartialSumsKernel(const float* partial, int64_t ranges, int64_t cols,
                         float* sums) {
  ForEach(cols, [&](int64_t c) {
    float sum = 0.0f;
    for (int64_t k = 0; k < ranges; ++k) sum += partial[k * cols + c];
    sums[c] += sum;
  });
}

constexpr int64_t kNone = INT64_MAX;
using MinScratch = BlockScratch<int64_t>;

// The first of each block's elements, or kNone.
template <class T>
__global__ void __launch_bounds__(kThreads)
    FirstNonFiniteKernel(const T* x, int64_t n, int64_t* partial) {
  auto* scratch = DynamicShared<MinScratch>();
  int64_t first = kNone;
  ForEach(n, [&](int64_t i) {
    const float v = LoadF(x + i);
    // Not finite: v - v is NaN.
    if (!(v - v == 0.0f) && i < first) first = i;
  });
  first = BlockMin(first, scratch);
  if (threadIdx.x == 0) partial[blockIdx.x] = first;
}

// grid (1).
__global__ void __launch_bounds__(kThreads)
    FirstOfPartsKernel(const int64_t* partial, int64_t parts, int64_t* result) {
  auto* scratch = DynamicShared<MinScratch>();
  int64_t first = kNone;
  for (int64_t i = threadIdx.x; i < parts; i += kThreads) {
    if (partial[i] < first) first = partial[i];
  }
  first = BlockMin(first, scratch);
  if (threadIdx.x == 0) *result = first == kNone ? -1 : first;
}

dim3 Grid(int64_t n) { return GridFor(n, kThreads); }

// Rows of a range of column sums: few partial sums, yet enough blocks.
int64_t SumRange(int64_t rows) { return std::max<int64_t>(64, rows / 256); }
int64_t SumRanges(int64_t rows) {
  return std::max<int64_t>(1, (rows + SumRange(rows) - 1) / SumRange(rows));
}

template <class To>
LaunchStatus AddMatrixTo(MatView dst, ConstMatView src, Stream stream) {
  const AddMatrixArgs args = {dst.rows, dst.cols, dst.stride, src.stride};
  const dim3 grid = GridForMatrix(dst.rows, dst.cols, kThreads);
  auto* to = static_cast<To*>(dst.data);
  if (src.dtype == DType::kBF16) {
    return Launch("add_matrix", AddMatrixKernel<To, BFloat16>, grid, kThreads,
                  0, stream, to, static_cast<const BFloat16*>(src.data), args);
  }
  return Launch("add_matrix", AddMatrixKernel<To, float>, grid, kThreads, 0,
                stream, to, static_cast<const float*>(src.data), args);
}

template <class From>
LaunchStatus CastFrom(const void* src, void* dst, DType dst_type, int64_t n,
                      Stream stream) {
  const auto* from = static_cast<const From*>(src);
  if (dst_type == DType::kBF16) {
    return Launch("cast", CastKernel<From, BFloat16>, Grid(n), kThreads, 0,
                  stream, from, static_cast<BFloat16*>(dst), n);
  }
  return Launch("cast", CastKernel<From, float>, Grid(n), kThreads, 0, stream,
                from, static_cast<float*>(dst), n);
}

}  // namespace

LaunchStatus Cast(const void* src, DType src_type, void* dst, DType dst_type,
                  int64_t n, Stream stream) {
  return src_type == DType::kBF16
             ? CastFrom<BFloat16>(src, dst, dst_type, n, stream)
             : CastFrom<float>(src, dst, dst_type, n, stream);
}

LaunchStatus AddTo(float* dst, const void* src, DType type, int64_t n,
                   Stream stream) {
  if (type == DType::kBF16) {
    return Launch("add_to", AddToKernel<BFloat16>, Grid(n), kThreads, 0, stream,
                  dst, static_cast<const BFloat16*>(src), n);
  }
  return Launch("add_to", AddToKernel<float>, Grid(n), kThreads, 0, stream, dst,
                static_cast<const float*>(src), n);
}

int64_t AddColumnSumsWorkspace(int64_t rows, int64_t cols) {
  return SumRanges(rows) * cols;
}

LaunchStatus AddColumnSums(ConstMatView x, float* sums, float* workspace,
                           Stream stream) {
  const int64_t ranges = SumRanges(x.rows), range = SumRange(x.rows);
  const dim3 grid((x.cols + kColumns - 1) / kColumns, ranges);
  LaunchStatus status;
  if (x.dtype == DType::kBF16) {
    status =
        Launch("column_sums", ColumnSumsKernel<BFloat16>, grid, kThreads,
               sizeof(ColumnRows), stream, static_cast<const BFloat16*>(x.data),
               x.rows, x.cols, x.stride, range, workspace);
  } else {
    status =
        Launch("column_sums", ColumnSumsKernel<float>, grid, kThreads,
               sizeof(ColumnRows), stream, static_cast<const float*>(x.data),
               x.rows, x.cols, x.stride, range, workspace);
  }
  if (!status.ok()) return status;
  return Launch("add_partial_sums", AddPartialSumsKernel, Grid(x.cols),
                kThreads, 0, stream, workspace, ranges, x.cols, sums);
}

LaunchStatus AddRow(MatView y, const float* row, Stream stream) {
  const dim3 grid = GridForMatrix(y.rows, y.cols, kThreads);
  if (y.dtype == DType::kBF16) {
    return Launch("add_row", AddRowKernel<BFloat16>, grid, kThreads, 0, stream,
                  static_cast<BFloat16*>(y.data), y.rows, y.cols, y.stride,
                  row);
  }
  return Launch("add_row", AddRowKernel<float>, grid, kThreads, 0, stream,
                static_cast<float*>(y.data), y.rows, y.cols, y.stride, row);
}

LaunchStatus AddMatrix(MatView dst, ConstMatView src, Stream stream) {
  CARRY_CHECK(dst.rows == src.rows && dst.cols == src.cols);
  return dst.dtype == DType::kBF16 ? AddMatrixTo<BFloat16>(dst, src, stream)
                                   : AddMatrixTo<float>(dst, src, stream);
}

LaunchStatus NegativeExp(const float* x, float* y, int64_t n, Stream stream) {
  return Launch("negative_exp", NegativeExpKernel, Grid(n), kThreads, 0, stream,
                x, y, n);
}

LaunchStatus AddProduct(float* dst, const float* a, const float* b, int64_t n,
                        Stream stream) {
  return Launch("add_product", AddProductKernel, Grid(n), kThreads, 0, stream,
                dst, a, b, n);
}

int64_t FirstNonFiniteWorkspace(int64_t n) { return PartsFor(n, kThreads); }

LaunchStatus FirstNonFinite(const void* x, DType type, int64_t n,
                            int64_t* result, int64_t* workspace,
                            Stream stream) {
  const int64_t parts = FirstNonFiniteWorkspace(n);
  LaunchStatus status;
  if (type == DType::kBF16) {
    status = Launch("first_non_finite", FirstNonFiniteKernel<BFloat16>,
                    dim3(parts), kThreads, sizeof(MinScratch), stream,
                    static_cast<const BFloat16*>(x), n, workspace);
  } else {
    status = Launch("first_non_finite", FirstNonFiniteKernel<float>,
                    dim3(parts), kThreads, sizeof(MinScratch), stream,
                    static_cast<const float*>(x), n, workspace);
  }
  if (!status.ok()) return status;
  return Launch("first_of_parts", FirstOfPartsKernel, dim3(1), kThreads,
                sizeof(MinScratch), stream, workspace, parts, result);
}

}  // namespace carry::cuda
