// Two passes over a row: the largest value and the sum of exponentials together
// (block by block, rescaled when the maximum grows), then the gradient. A row
// of 50 K logits stays in the L2 cache between them.

#include "kernels/cross_entropy.h"

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

// The largest of x and sum_v exp(x_v - max).
template <class T>
HWY_INLINE void MaxAndSum(const T* x, int64_t n, float* max, double* sum) {
  *max = -std::numeric_limits<float>::infinity();
  *sum = 0;
  for (int64_t v0 = 0; v0 < n; v0 += kBlockSize) {
    const int64_t size = std::min(kBlockSize, n - v0);
    const T* block = x + v0;
    VF most = Set(-std::numeric_limits<float>::max());
    const int64_t whole = size / kLanes * kLanes;
    for (int64_t i = 0; i < whole; i += kLanes) {
      most = hn::Max(most, LoadF(block + i));
    }
    float block_max = Max(most);
    HWY_ALIGN float rest[kLanes];
    if (whole < size) {
      StoreF(LoadF(block + whole, FirstLanes{size - whole}), rest);
      for (int64_t i = 0; i < size - whole; ++i) {
        block_max = std::max(block_max, rest[i]);
      }
    }
    if (block_max > *max) {
      *sum *= std::exp(static_cast<double>(*max) - block_max);
      *max = block_max;
    }
    VF total[2] = {Zero(), Zero()};
    int which = 0;
    for (int64_t i = 0; i < whole; i += kLanes) {
      const VF y = hn::Sub(LoadF(block + i), Set(*max));
      total[which] =
          hn::Add(total[which], Exp2NonPositive(hn::Mul(y, Set(kLog2E))));
      which ^= 1;
    }
    *sum += Sum(hn::Add(total[0], total[1]));
    for (int64_t i = 0; i < size - whole; ++i) *sum += std::exp(rest[i] - *max);
  }
}

// The gradient may overwrite the logits it comes from: writes never overtake
// reads, as T is no wider than a float.
template <class T>
void Rows(const ConstMatView& logits, const int32_t* targets, float weight,
          const MatView& dlogits, float* nll, int64_t begin, int64_t end) {
  const int64_t n = logits.cols;
  const bool gradient = dlogits.data != nullptr;
  for (int64_t r = begin; r < end; ++r) {
    const float* x = static_cast<const float*>(logits.data) + r * logits.stride;
    T* dx =
        gradient ? static_cast<T*>(dlogits.data) + r * dlogits.stride : nullptr;
    const int64_t target = targets[r];
    if (target < 0) {
      nll[r] = 0;
      if (gradient) std::fill_n(dx, n, T{});
      continue;
    }
    CARRY_CHECK(target < n);
    float max;
    double sum;
    MaxAndSum(x, n, &max, &sum);
    const float logit = x[target];
    const double log_sum = max + std::log(sum);
    nll[r] = static_cast<float>(log_sum - logit);
    if (!gradient) continue;
    const VF scale = Set(static_cast<float>(weight / sum));
    ForLanes(n, [&](int64_t i, auto lanes) HWY_ATTR {
      const VF y = hn::Mul(hn::Sub(LoadF(x + i, lanes), Set(max)), Set(kLog2E));
      StoreF(hn::Mul(Exp2NonPositive(y), scale), dx + i, lanes);
    });
    const double p = std::exp(logit - log_sum);
    StoreF(Set(static_cast<float>(weight * (p - 1))), dx + target,
           FirstLanes{1});
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
