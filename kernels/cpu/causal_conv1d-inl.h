// What the convolution's forward and backward passes share: weights by tap, and
// the convolution of a row and of four rows.

#if defined(CARRY_KERNELS_CPU_CAUSAL_CONV1D_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_CAUSAL_CONV1D_INL_H_
#undef CARRY_KERNELS_CPU_CAUSAL_CONV1D_INL_H_
#else
#define CARRY_KERNELS_CPU_CAUSAL_CONV1D_INL_H_
#endif

#include "kernels/cpu/causal_conv1d_tasks.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE const T* RowPointer(const ConstMatView& v, int64_t row,
                               int64_t col) {
  return static_cast<const T*>(v.data) + row * v.stride + col;
}
template <class T>
HWY_INLINE T* RowPointer(const MatView& v, int64_t row, int64_t col) {
  return static_cast<T*>(v.data) + row * v.stride + col;
}

// Weights of a block of channels as [K][width], and its bias.
struct ConvWeights {
  const float* w[kMaxTaps];
  const float* bias;

  static int64_t Size(int64_t taps) { return (taps + 1) * kConvBlock; }
  ConvWeights(const CausalConv1dArgs& args, int64_t c0, int64_t width,
              Scratch* scratch) {
    for (int64_t k = 0; k < args.taps; ++k) {
      float* row = scratch->Take(kConvBlock);
      for (int64_t i = 0; i < width; ++i) {
        row[i] = args.weight[(c0 + i) * args.taps + k];
      }
      std::fill(row + width, row + kConvBlock, 0.0f);
      w[k] = row;
    }
    float* row = scratch->Take(kConvBlock);
    std::fill_n(row, kConvBlock, 0.0f);
    if (args.bias != nullptr) std::copy_n(args.bias + c0, width, row);
    bias = row;
  }
};

// v of one vector.
template <int kTaps, class TX, class Lanes>
HWY_INLINE VF Convolve(const TX* const* x, const ConvWeights& w, int64_t taps,
                       int64_t i, Lanes lanes) {
  VF v = LoadF(w.bias + i);
  const int64_t n = kTaps > 0 ? kTaps : taps;
  for (int64_t k = 0; k < n; ++k) {
    v = hn::MulAdd(LoadF(w.w[k] + i), LoadF(x[k] + i, lanes), v);
  }
  return v;
}

// Tells the L2 cache of a line in each of kFastRows rows. Those lie a row's
// stride apart, which hides them from the hardware prefetcher; L1 is full.
template <class T>
HWY_INLINE void PrefetchRows(const T* p, int64_t stride) {
  for (int r = 0; r < kFastRows; ++r) __builtin_prefetch(p + r * stride, 0, 2);
}

// v of kFastRows rows of one vector; x [kFastRows + kFastTaps - 1].
HWY_INLINE void ConvolveRows(const VF (&x)[kFastRows + kFastTaps - 1],
                             const ConvWeights& w, int64_t i, VF* v) {
  const VF bias = LoadF(w.bias + i);
  for (int r = 0; r < kFastRows; ++r) v[r] = bias;
  for (int k = 0; k < kFastTaps; ++k) {
    const VF wk = LoadF(w.w[k] + i);
    for (int r = 0; r < kFastRows; ++r) v[r] = hn::MulAdd(wk, x[r + k], v[r]);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_CAUSAL_CONV1D_INL_H_
