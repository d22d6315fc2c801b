#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/adamw.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

void AdamWRange(const AdamWArgs& args, int64_t begin, int64_t end) {
  // lr m / c1 / (sqrt(v / c2) + eps)
  //   = (lr sqrt(c2) / c1) m / (sqrt(v) + eps sqrt(c2))
  const float root = std::sqrt(args.correction2);
  const VF step = Set(args.lr * root / args.correction1);
  const VF eps = Set(args.eps * root);
  const VF keep = Set(1.0f - args.lr * args.weight_decay);
  const VF scale = Set(args.grad_scale);
  const VF beta1 = Set(args.beta1), rest1 = Set(1.0f - args.beta1);
  const VF beta2 = Set(args.beta2), rest2 = Set(1.0f - args.beta2);
  ForLanes(end - begin, [&](int64_t offset, auto lanes) HWY_ATTR {
    const int64_t i = begin + offset;
    const VF g = hn::Mul(LoadF(args.grad + i, lanes), scale);
    const VF m = hn::MulAdd(beta1, LoadF(args.m + i, lanes), hn::Mul(rest1, g));
    const VF v = hn::MulAdd(beta2, LoadF(args.v + i, lanes),
                            hn::Mul(rest2, hn::Mul(g, g)));
    const VF w = hn::Mul(keep, LoadF(args.weight + i, lanes));
    const VF ratio = hn::Div(m, hn::Add(hn::Sqrt(v), eps));
    StoreF(hn::NegMulAdd(step, ratio, w), args.weight + i, lanes);
    StoreF(m, args.m + i, lanes);
    StoreF(v, args.v + i, lanes);
  });
}

double SumOfSquaresRange(const float* x, int64_t n) {
  const hn::CappedTag<double, 8> d;
  const hn::Rebind<float, decltype(d)> d32;
  const int64_t lanes = hn::Lanes(d);
  auto sum0 = hn::Zero(d), sum1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto a = hn::PromoteTo(d, hn::LoadU(d32, x + i));
    const auto b = hn::PromoteTo(d, hn::LoadU(d32, x + i + lanes));
    sum0 = hn::MulAdd(a, a, sum0);
    sum1 = hn::MulAdd(b, b, sum1);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(sum0, sum1)));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * x[i];
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(AdamWRange);
HWY_EXPORT(SumOfSquaresRange);

// Parameters of a task; 64 KB an array.
constexpr int64_t kChunk = 16384;

int64_t Chunks(int64_t n) { return (n + kChunk - 1) / kChunk; }

}  // namespace

void AdamW(const AdamWArgs& args) {
  ParallelRanges(Chunks(args.n), [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(AdamWRange)
    (args, begin * kChunk, std::min(args.n, end * kChunk));
  });
}

double SumOfSquares(const float* x, int64_t n) {
  std::vector<double> parts(Chunks(n));
  ParallelFor(Chunks(n), [&](int64_t i) {
    parts[i] = HWY_DYNAMIC_DISPATCH(SumOfSquaresRange)(
        x + i * kChunk, std::min(kChunk, n - i * kChunk));
  });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

}  // namespace carry
#endif  // HWY_ONCE
