#include "kernels/cpu/matmul_vector.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_vector.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

#ifndef CARRY_KERNELS_CPU_MATMUL_VECTOR_
#define CARRY_KERNELS_CPU_MATMUL_VECTOR_
namespace carry {

// Rows of W that are summed over their lanes together.
constexpr int64_t kDotRows = 16;

}  // namespace carry
#endif  // CARRY_KERNELS_CPU_MATMUL_VECTOR_

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// sums[m * step]: the lanes of the dot product of x row m [K padded with zeros
// to 16] with one row of W.
template <int kM, class T>
HWY_INLINE void DotLanes(const float* HWY_RESTRICT x, int64_t x_stride,
                         const T* HWY_RESTRICT w, int64_t k, float* sums,
                         int64_t step) {
  // Two chains for each row of x; with one row, four.
  constexpr int kChains = kM == 1 ? 4 : 2;
  // Bytes ahead: what arrives in the 100 ns that memory takes.
  constexpr int64_t kAhead = 2048 / sizeof(T);
  VF sum[kM][kChains];
  for (int m = 0; m < kM; ++m) {
    for (int c = 0; c < kChains; ++c) sum[m][c] = Zero();
  }
  int64_t i = 0;
  for (; i + kChains * kLanes <= k; i += kChains * kLanes) {
    __builtin_prefetch(w + i + kAhead, 0, 3);
    for (int c = 0; c < kChains; ++c) {
      const VF wi = LoadF(w + i + c * kLanes);
      for (int m = 0; m < kM; ++m) {
        sum[m][c] =
            hn::MulAdd(LoadF(x + m * x_stride + i + c * kLanes), wi, sum[m][c]);
      }
    }
  }
  ForLanes(k - i, [&](int64_t j, auto lanes) HWY_ATTR {
    const VF wi = LoadF(w + i + j, lanes);
    for (int m = 0; m < kM; ++m) {
      sum[m][0] = hn::MulAdd(LoadF(x + m * x_stride + i + j), wi, sum[m][0]);
    }
  });
  for (int m = 0; m < kM; ++m) {
    for (int c = 1; c < kChains; ++c) {
      sum[m][0] = hn::Add(sum[m][0], sum[m][c]);
    }
    StoreF(sum[m][0], sums + m * step);
  }
}

template <int kM, class T>
void VectorRows(const float* x, int64_t x_stride, const ConstMatView& w,
                const MatView& y, Write write, const float* bias, int64_t begin,
                int64_t end) {
  HWY_ALIGN float sums[kM * kDotRows * kLanes];
  for (int64_t n0 = begin; n0 < end; n0 += kDotRows) {
    const int64_t rows = std::min(kDotRows, end - n0);
    for (int64_t r = 0; r < rows; ++r) {
      const T* row = static_cast<const T*>(w.data) + (n0 + r) * w.stride;
      DotLanes<kM>(x, x_stride, row, w.cols, sums + r * kLanes,
                   kDotRows * kLanes);
    }
    for (int m = 0; m < kM; ++m) {
      HWY_ALIGN float dots[kDotRows];
      SumEachVector(sums + m * kDotRows * kLanes, rows, dots);
      for (int64_t r = 0; r < rows; ++r) {
        const float add = bias != nullptr ? bias[n0 + r] : 0.0f;
        const int64_t at = m * y.stride + n0 + r;
        if (y.dtype == DType::kF32) {
          float& to = static_cast<float*>(y.data)[at];
          const float old = write == Write::kAccumulate ? to : 0.0f;
          to = dots[r] + add + old;
        } else {
          BFloat16& to = static_cast<BFloat16*>(y.data)[at];
          const float old = write == Write::kAccumulate ? ToFloat(to) : 0.0f;
          to = ToBFloat16(dots[r] + add + old);
        }
      }
    }
  }
}

template <class T>
void VectorTyped(const float* x, int64_t x_stride, const ConstMatView& w,
                 const MatView& y, Write write, const float* bias,
                 int64_t begin, int64_t end) {
  switch (y.rows) {
    case 1:
      return VectorRows<1, T>(x, x_stride, w, y, write, bias, begin, end);
    case 2:
      return VectorRows<2, T>(x, x_stride, w, y, write, bias, begin, end);
    case 3:
      return VectorRows<3, T>(x, x_stride, w, y, write, bias, begin, end);
    default:
      return VectorRows<4, T>(x, x_stride, w, y, write, bias, begin, end);
  }
}

// Rows [begin, end) of W. x is fp32, its rows padded with zeros to 16.
void VectorRange(const float* x, int64_t x_stride, const ConstMatView& w,
                 const MatView& y, Write write, const float* bias,
                 int64_t begin, int64_t end) {
  if (w.dtype == DType::kF32) {
    VectorTyped<float>(x, x_stride, w, y, write, bias, begin, end);
  } else {
    VectorTyped<BFloat16>(x, x_stride, w, y, write, bias, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(VectorRange);

// Bytes of W that are worth a thread's start.
constexpr int64_t kBytesAThread = 64 << 10;

}  // namespace

void VectorMatMul(const ConstMatView& x, const ConstMatView& w,
                  const MatView& y, Write write, const float* bias) {
  CARRY_CHECK(x.rows <= kFewRows && x.cols == w.cols && y.cols == w.rows);
  const int64_t stride = Scratch::Rounded(x.cols);
  Scratch scratch(ScratchSlot::kCall, x.rows * stride);
  float* rows = scratch.Take(x.rows * stride);
  for (int64_t m = 0; m < x.rows; ++m) {
    float* row = rows + m * stride;
    for (int64_t k = 0; k < x.cols; ++k) {
      const int64_t at = m * x.stride + k;
      row[k] = x.dtype == DType::kF32
                   ? static_cast<const float*>(x.data)[at]
                   : ToFloat(static_cast<const BFloat16*>(x.data)[at]);
    }
    std::fill(row + x.cols, row + stride, 0.0f);
  }
  const int64_t row_bytes = w.cols * SizeOf(w.dtype);
  const int64_t rows_a_task =
      std::max(kDotRows, kBytesAThread / row_bytes / kDotRows * kDotRows);
  const int64_t tasks = (w.rows + rows_a_task - 1) / rows_a_task;
  ParallelRanges(tasks, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(VectorRange)
    (rows, stride, w, y, write, bias, begin * rows_a_task,
     std::min(w.rows, end * rows_a_task));
  });
}

}  // namespace carry
#endif  // HWY_ONCE
