// Two passes over a row: the largest value and the sum of exponentials together
// (block by block, rescaled when the maximum grows), then the gradient. A row
// of 50 K logits stays in the L2 cache between them. Each pass fetches half a
// row: the second the first half of the next row, so that memory is never idle.

#include "kernels/cross_entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/cross_entropy.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// Logits between two looks at the maximum: 4 KB, read twice from L1.
constexpr int64_t kBlockSize = 1024;

HWY_INLINE float Max(VF v) { return hn::GetLane(hn::MaxOfLanes(DF(), v)); }

// Vectors that go through exp side by side.
constexpr int kBatch = 4;

// The largest of n values, a multiple of kLanes, but at least `max`.
HWY_INLINE float MaxOf(const float* x, int64_t n, float max) {
  VF most[kBatch];
  for (VF& m : most) m = Set(max);
  int64_t i = 0;
  for (; i + kBatch * kLanes <= n; i += kBatch * kLanes) {
    for (int j = 0; j < kBatch; ++j) {
      most[j] = hn::Max(most[j], LoadF(x + i + j * kLanes));
    }
  }
  for (; i < n; i += kLanes) most[0] = hn::Max(most[0], LoadF(x + i));
  return Max(hn::Max(hn::Max(most[0], most[1]), hn::Max(most[2], most[3])));
}

// y := exp(x - max) of kN vectors, to what a T can hold. Fetches what is
// kBlockSize further on, so that memory is busy while exp is.
template <class T, int kN>
HWY_INLINE void ExpBelow(const float* x, VF max, VF (&y)[kN]) {
  for (int j = 0; j < kN; ++j) {
    __builtin_prefetch(x + kBlockSize + j * kLanes, 0, 3);
  }
  for (int j = 0; j < kN; ++j) y[j] = hn::Sub(LoadF(x + j * kLanes), max);
  for (int j = 0; j < kN; ++j) y[j] = hn::Mul(y[j], Set(kLog2E));
  if constexpr (std::is_same_v<T, BFloat16>) {
    Exp2ForBf16(y);
  } else {
    Exp2(y);
  }
}

// A batch's share of half of what lies at `later`, into the L2 cache.
HWY_INLINE void FetchHalf(const float* later, int64_t i) {
  constexpr int64_t kLine = 16;
  for (int64_t at = 0; at < kBatch * kLanes / 2; at += kLine) {
    __builtin_prefetch(later + i / 2 + at, 0, 2);
  }
}

// The sum of exp(x - max) over n values, a multiple of kLanes.
HWY_INLINE float SumOfExp(const float* x, int64_t n, VF max,
                          const float* later) {
  VF total[kBatch] = {Zero(), Zero(), Zero(), Zero()};
  int64_t i = 0;
  for (; i + kBatch * kLanes <= n; i += kBatch * kLanes) {
    VF y[kBatch];
    FetchHalf(later, i);
    ExpBelow<float>(x + i, max, y);
    for (int j = 0; j < kBatch; ++j) total[j] = hn::Add(total[j], y[j]);
  }
  for (; i < n; i += kLanes) {
    VF y[1];
    ExpBelow<float>(x + i, max, y);
    total[0] = hn::Add(total[0], y[0]);
  }
  return Sum(hn::Add(hn::Add(total[0], total[1]), hn::Add(total[2], total[3])));
}

// The largest of x and sum_v exp(x_v - max).
HWY_INLINE void MaxAndSum(const float* x, int64_t n, float* max, double* sum) {
  *max = -std::numeric_limits<float>::max();
  *sum = 0;
  for (int64_t v0 = 0; v0 < n; v0 += kBlockSize) {
    const int64_t size = std::min(kBlockSize, n - v0);
    const float* block = x + v0;
    const int64_t whole = size / kLanes * kLanes;
    float block_max = MaxOf(block, whole, *max);
    for (int64_t i = whole; i < size; ++i) {
      block_max = std::max(block_max, block[i]);
    }
    if (block_max > *max) {
      if (*sum > 0) *sum *= std::exp(static_cast<double>(*max) - block_max);
      *max = block_max;
    }
    *sum += SumOfExp(block, whole, Set(*max), x + (n + v0) / 2);
    for (int64_t i = whole; i < size; ++i) *sum += std::exp(block[i] - *max);
  }
}

// dx := scale exp(x - max)
template <class T>
HWY_INLINE void Softmax(const float* x, int64_t n, float max, float scale,
                        T* dx, const float* later) {
  const int64_t whole = n / kLanes * kLanes;
  const VF most = Set(max), factor = Set(scale);
  int64_t i = 0;
  for (; i + kBatch * kLanes <= whole; i += kBatch * kLanes) {
    VF y[kBatch];
    FetchHalf(later, i);
    ExpBelow<T>(x + i, most, y);
    for (int j = 0; j < kBatch; ++j) {
      StoreF(hn::Mul(y[j], factor), dx + i + j * kLanes);
    }
  }
  for (; i < whole; i += kLanes) {
    VF y[1];
    ExpBelow<T>(x + i, most, y);
    StoreF(hn::Mul(y[0], factor), dx + i);
  }
  if (whole == n) return;
  const FirstLanes rest = {n - whole};
  VF y[1] = {hn::Mul(hn::Sub(LoadF(x + whole, rest), Set(max)), Set(kLog2E))};
  Exp2(y);
  StoreF(hn::Mul(y[0], Set(scale)), dx + whole, rest);
}

// Rows whose maxima and sums are taken before the first of their gradients, so
// that short rows overlap: at most so many, and of so many logits in all.
constexpr int64_t kMaxGroup = 8;
constexpr int64_t kGroupSize = 2048;

// The gradient may overwrite the logits it comes from: writes never overtake
// reads, as T is no wider than a float.
template <class T>
void Rows(const ConstMatView& logits, const int32_t* targets, float weight,
          const MatView& dlogits, float* nll, int64_t begin, int64_t end) {
  const int64_t n = logits.cols;
  const auto row = [&](int64_t r) {
    return static_cast<const float*>(logits.data) + r * logits.stride;
  };
  const int64_t most =
      std::clamp<int64_t>(kGroupSize / std::max<int64_t>(n, 1), 1, kMaxGroup);
  for (int64_t first = begin; first < end; first += most) {
    const int64_t last = std::min(end, first + most);
    float max[kMaxGroup];
    double sum[kMaxGroup];
    for (int64_t r = first; r < last; ++r) {
      CARRY_CHECK(targets[r] < n);
      if (targets[r] < 0) continue;
      MaxAndSum(row(r), n, &max[r - first], &sum[r - first]);
    }
    for (int64_t r = first; r < last; ++r) {
      const int64_t target = targets[r];
      T* dx = dlogits.data != nullptr
                  ? static_cast<T*>(dlogits.data) + r * dlogits.stride
                  : nullptr;
      if (target < 0) {
        nll[r] = 0;
        if (dx != nullptr) std::fill_n(dx, n, T{});
        continue;
      }
      const float* x = row(r);
      const float logit = x[target];
      const double total = sum[r - first];
      const double log_sum = max[r - first] + std::log(total);
      nll[r] = static_cast<float>(log_sum - logit);
      if (dx == nullptr) continue;
      Softmax(x, n, max[r - first], static_cast<float>(weight / total), dx,
              r + 1 < end ? row(r + 1) : x);
      const double p = std::exp(logit - log_sum);
      StoreF(Set(static_cast<float>(weight * (p - 1))), dx + target,
             FirstLanes{1});
    }
  }
}

void CrossEntropyRows(const ConstMatView& logits, const int32_t* targets,
                      float weight, const MatView& dlogits, float* nll,
                      int64_t begin, int64_t end) {
  if (dlogits.dtype == DType::kF32) {
    Rows<float>(logits, targets, weight, dlogits, nll, begin, end);
  } else {
    Rows<BFloat16>(logits, targets, weight, dlogits, nll, begin, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {

HWY_EXPORT(CrossEntropyRows);

void CrossEntropy(ConstMatView logits, const int32_t* targets, float weight,
                  MatView dlogits, float* nll) {
  CARRY_CHECK(logits.dtype == DType::kF32);
  ParallelRanges(logits.rows, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(CrossEntropyRows)
    (logits, targets, weight, dlogits, nll, begin, end);
  });
}

}  // namespace carry
#endif  // HWY_ONCE
