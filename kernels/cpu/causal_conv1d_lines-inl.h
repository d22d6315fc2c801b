// The convolution's backward pass in whole lines of bf16, with the fewest
// with the fewest operations that AVX-512 needs: there two ports compute, and
// their operations, not memory, decide.

#if defined(CARRY_KERNELS_CPU_CAUSAL_CONV1D_LINES_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_CAUSAL_CONV1D_LINES_INL_H_
#undef CARRY_KERNELS_CPU_CAUSAL_CONV1D_LINES_INL_H_
#else
#define CARRY_KERNELS_CPU_CAUSAL_CONV1D_LINES_INL_H_
#endif

#include "kernels/cpu/causal_conv1d-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

constexpr int64_t kLineChannels = 2 * kLanes;

#if HWY_TARGET <= HWY_AVX3

// A line becomes two vectors of fp32 by interleaving with zeros, one operation
// each where the channels' own order takes two. The first holds the even groups
// of four channels, the second the odd ones; scratch rows are in that order.
template <int kHalf>
HWY_INLINE VF LoadHalfLine(const BFloat16* p) {
  const hn::Twice<D16> d;
  const auto line = hn::LoadU(d, reinterpret_cast<const uint16_t*>(p));
  const auto bits = kHalf == 0 ? hn::InterleaveLower(d, hn::Zero(d), line)
                               : hn::InterleaveUpper(d, hn::Zero(d), line);
  return hn::BitCast(DF(), bits);
}

template <bool kHardware>
HWY_INLINE __m512i RoundLine(VF even, VF odd) {
  __m512i line;
  if constexpr (kHardware) {
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(line) : "v"(even.raw), "v"(odd.raw));
  } else {
    const hn::Twice<D16> d;
    line = hn::Combine(d, RoundToBf16(odd), RoundToBf16(even)).raw;
  }
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
  return _mm512_permutexvar_epi64(order, line);
}

// Rows of a line.
HWY_INLINE void StoreLines(const VF (&even)[kFastRows],
                           const VF (&odd)[kFastRows], BFloat16* p,
                           int64_t stride, bool stream) {
  if (HWY_LIKELY(stream && cpu_rounds_to_bf16)) {
    for (int r = 0; r < kFastRows; ++r) {
      _mm512_stream_si512(reinterpret_cast<__m512i*>(p + r * stride),
                          RoundLine<true>(even[r], odd[r]));
    }
  } else {
    for (int r = 0; r < kFastRows; ++r) {
      _mm512_storeu_si512(p + r * stride, RoundLine<false>(even[r], odd[r]));
    }
  }
}

// Calls body(natural, in_lines) for the places of each group of four channels.
template <class Body>
HWY_INLINE void ForGroups(int64_t width, const Body& body) {
  constexpr int64_t kGroup = 4, kGroups = kLineChannels / kGroup;
  for (int64_t i = 0; i < width; i += kLineChannels) {
    for (int64_t j = 0; j < kGroups; ++j) {
      body(i + j * kGroup, i + j % 2 * kLanes + j / 2 * kGroup);
    }
  }
}
using DGroup = hn::CappedTag<float, 4>;

HWY_INLINE void ToLines(const float* from, float scale, int64_t width,
                        float* to) {
  const DGroup d;
  ForGroups(width, [=](int64_t i, int64_t j) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, scale)), d, to + j);
  });
}
HWY_INLINE void FromLines(const float* from, float scale, int64_t width,
                          float* to) {
  const DGroup d;
  ForGroups(width, [=](int64_t i, int64_t j) HWY_ATTR {
    hn::StoreU(hn::Mul(hn::LoadU(d, from + j), hn::Set(d, scale)), d, to + i);
  });
}
HWY_INLINE void AddFromLines(const float* from, float scale, int64_t width,
                             float* to) {
  const DGroup d;
  ForGroups(width, [=](int64_t i, int64_t j) HWY_ATTR {
    const auto sum = hn::MulAdd(hn::LoadU(d, from + j), hn::Set(d, scale),
                                hn::LoadU(d, to + i));
    hn::StoreU(sum, d, to + i);
  });
}

// s := 1 / (1 + 2^u) to 1e-6, no less than 2^-60, where u := min(u, 60).
//
// 2^u is a polynomial of degree 4, right to 2.6e-6 of itself, of which s sees
// at most a quarter. Two vectors share a reciprocal, that of their product.
template <int kN>
HWY_INLINE void SigmoidOfPairs(VF (&u)[kN], VF (&s)[kN]) {
  static_assert(kN % 2 == 0);
  VF f[kN], p[kN];
  // Min gives its second operand where one is NaN.
  for (int j = 0; j < kN; ++j) u[j] = hn::Min(Set(60.0f), u[j]);
  for (int j = 0; j < kN; ++j) f[j] = VF{_mm512_reduce_ps(u[j].raw, 0x09)};
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(Set(0.01353416778f), f[j], Set(0.05201146007f));
  }
  for (float c : {0.2414427549f, 0.6930038333f, 1.000002623f}) {
    for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(p[j], f[j], Set(c));
  }
  for (int j = 0; j < kN; ++j) p[j] = VF{_mm512_scalef_ps(p[j].raw, u[j].raw)};
  for (int j = 0; j < kN; j += 2) p[j] = hn::Add(p[j], Set(1.0f));
  for (int j = 0; j < kN; j += 2) f[j] = hn::MulAdd(p[j], p[j + 1], p[j]);
  for (int j = 0; j < kN; j += 2) s[j] = VF{_mm512_rcp14_ps(f[j].raw)};
  for (int j = 0; j < kN; j += 2) {
    f[j] = hn::NegMulAdd(f[j], s[j], Set(1.0f));
  }
  for (int j = 0; j < kN; j += 2) f[j] = hn::MulAdd(f[j], s[j], s[j]);
  for (int j = 0; j < kN; j += 2) {
    s[j] = hn::MulAdd(f[j], p[j + 1], f[j]);
    s[j + 1] = hn::Mul(f[j], p[j]);
  }
}

// What the rows of one block of channels share, for width / 32 * 32 of them.
//
// With silu the weights here are -log2(e) times what they are, which makes the
// convolution the exponent that the sigmoid needs, and dv and the sums are
// divided by that. Their products are dx all the same.
class ConvLines {
 public:
  static constexpr int kArrays = 2 * (kFastTaps + 1) + kFastTaps - 1;

  ConvLines(const ConvWeights& w, int64_t width, bool silu, Scratch* scratch)
      : width_(width / kLineChannels * kLineChannels),
        silu_(silu),
        scale_(silu ? -kLog2E : 1.0f) {
    for (int k = 0; k <= kFastTaps; ++k) {
      w_[k] = scratch->Take(kConvBlock);
      ToLines(k < kFastTaps ? w.w[k] : w.bias, scale_, width_, w_[k]);
      sums_[k] = scratch->Take(kConvBlock);
      std::fill_n(sums_[k], width_, 0.0f);
    }
    for (float*& dv : dv_) dv = scratch->Take(kConvBlock);
  }

  int64_t width() const { return width_; }

  // dv of the three rows behind those that Rows takes next, and of the three
  // first of those that it took last.
  void SetDv(int r, const float* dv) {
    ToLines(dv, 1.0f / scale_, width_, dv_[r]);
  }
  void GetDv(int r, float* dv) const { FromLines(dv_[r], scale_, width_, dv); }

  void AddSums(float* const* dw) const {
    for (int k = 0; k <= kFastTaps; ++k) {
      AddFromLines(sums_[k], scale_, width_, dw[k]);
    }
  }

  // kFastRows rows. x is of the row K - 1 before; x and dy of the rows `back`
  // before these are fetched.
  HWY_INLINE void Rows(const BFloat16* HWY_RESTRICT x, int64_t x_stride,
                       const BFloat16* HWY_RESTRICT dy, int64_t dy_stride,
                       BFloat16* HWY_RESTRICT dx, int64_t dx_stride,
                       int64_t back, bool stream) const {
    if (silu_) {
      Lines<true>(x, x_stride, dy, dy_stride, dx, dx_stride, back, stream);
    } else {
      Lines<false>(x, x_stride, dy, dy_stride, dx, dx_stride, back, stream);
    }
  }

 private:
  template <bool kSilu>
  HWY_INLINE void Lines(const BFloat16* HWY_RESTRICT x, int64_t x_stride,
                        const BFloat16* HWY_RESTRICT dy, int64_t dy_stride,
                        BFloat16* HWY_RESTRICT dx, int64_t dx_stride,
                        int64_t back, bool stream) const {
    const BFloat16* next_x = x - back * x_stride;
    const BFloat16* next_dy = dy - back * dy_stride;
    for (int64_t i = 0; i < width_; i += kLineChannels) {
      VF even[kFastRows], odd[kFastRows];
      PrefetchRows(next_x + i, x_stride);
      HalfLine<0, kSilu>(x + i, x_stride, dy + i, dy_stride, i, even);
      PrefetchRows(next_dy + i, dy_stride);
      HalfLine<1, kSilu>(x + i, x_stride, dy + i, dy_stride, i + kLanes, odd);
      StoreLines(even, odd, dx + i, dx_stride, stream);
    }
  }

  template <int kHalf, bool kSilu>
  HWY_INLINE void HalfLine(const BFloat16* x0, int64_t x_stride,
                           const BFloat16* dy0, int64_t dy_stride, int64_t i,
                           VF* dx) const {
    constexpr int kInputs = kFastRows + kFastTaps - 1;
    VF x[kInputs], g[kInputs];
    for (int r = 0; r < kInputs; ++r) {
      x[r] = LoadHalfLine<kHalf>(x0 + r * x_stride);
    }
    if constexpr (kSilu) {
      VF u[kFastRows], s[kFastRows];
      for (int r = 0; r < kFastRows; ++r) u[r] = LoadF(w_[kFastTaps] + i);
      for (int k = 0; k < kFastTaps; ++k) {
        const VF wk = LoadF(w_[k] + i);
        for (int r = 0; r < kFastRows; ++r) {
          u[r] = hn::MulAdd(wk, x[r + k], u[r]);
        }
      }
      SigmoidOfPairs(u, s);
      // dy silu'(v) c = dy s (c^2 u (1 - s) + c), as v = c u.
      constexpr float c = -kLn2;
      for (int r = 0; r < kFastRows; ++r) {
        const VF rest = hn::NegMulAdd(Set(c * c), s[r], Set(c * c));
        const VF dys = hn::Mul(LoadHalfLine<kHalf>(dy0 + r * dy_stride), s[r]);
        g[r] = hn::Mul(dys, hn::MulAdd(rest, u[r], Set(c)));
      }
    } else {
      for (int r = 0; r < kFastRows; ++r) {
        g[r] = LoadHalfLine<kHalf>(dy0 + r * dy_stride);
      }
    }
    for (int r = 0; r < kFastTaps - 1; ++r) {
      g[kFastRows + r] = LoadF(dv_[r] + i);
      StoreF(g[r], dv_[r] + i);
    }
    VF sum = LoadF(sums_[kFastTaps] + i);
    for (int r = 0; r < kFastRows; ++r) sum = hn::Add(sum, g[r]);
    StoreF(sum, sums_[kFastTaps] + i);
    for (int k = kFastTaps - 1; k >= 0; --k) {
      const VF wk = LoadF(w_[k] + i);
      VF dwk = LoadF(sums_[k] + i);
      for (int r = 0; r < kFastRows; ++r) {
        const VF user = g[r + kFastTaps - 1 - k];
        dx[r] = k == kFastTaps - 1 ? hn::Mul(wk, user)
                                   : hn::MulAdd(wk, user, dx[r]);
        dwk = hn::MulAdd(g[r], x[r + k], dwk);
      }
      StoreF(dwk, sums_[k] + i);
    }
  }

  const int64_t width_;
  const bool silu_;
  const float scale_;
  float* w_[kFastTaps + 1];  // By tap, then the bias.
  float* sums_[kFastTaps + 1];
  float* dv_[kFastTaps - 1];
};

#else

struct ConvLines {};

#endif  // HWY_TARGET <= HWY_AVX3

// Where there are no lines.
struct NoConvLines {
  static constexpr int kArrays = 0;
  NoConvLines(const ConvWeights&, int64_t, bool, Scratch*) {}
};

template <class TX, class TY>
constexpr bool kInLines =
    HWY_TARGET <=
    HWY_AVX3&& std::is_same_v<TX, BFloat16>&& std::is_same_v<TY, BFloat16>;

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_CAUSAL_CONV1D_LINES_INL_H_
