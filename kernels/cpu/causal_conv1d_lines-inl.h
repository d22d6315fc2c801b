// The convolution's passes in whole lines of bf16, in as few operations
// as AVX-512 allows: two ports compute, and their operations, not memory,
// decide.

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

using DGroup = hn::CappedTag<float, 4>;

// kFastRows rows of a line. `stream`: past the caches, where hardware rounds.
HWY_INLINE void StoreLines(const VF* even, const VF* odd, BFloat16* p,
                           int64_t stride, bool stream) {
  if (HWY_LIKELY(stream)) {
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

// s := 1 / (1 + 2^u) to 1e-6, no less than 2^-60, where u := min(u, 60).
//
// 2^u is a polynomial of degree 4, right to 2.6e-6 of itself, of which s sees
// at most a quarter. Two vectors share a reciprocal, that of their product: a
// NaN in one is one in both.
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

// Arrays over the whole lines of one block of channels, in the order of their
// vectors, as [lines][kArrays][kLineChannels]: one pointer reaches all of a
// line.
template <int kArrays>
class LineArrays {
 public:
  LineArrays(int64_t width, Scratch* scratch)
      : width_(width / kLineChannels * kLineChannels),
        lines_(scratch->Take(kArrays * kConvBlock)) {
    std::fill_n(lines_, kArrays * width_, 0.0f);
  }

  int64_t width() const { return width_; }
  float* line(int64_t channel) const { return lines_ + channel * kArrays; }

  // Calls body(channel, place) for each group of four channels of an array.
  template <class Body>
  HWY_INLINE void ForGroups(int array, const Body& body) const {
    for (int64_t i = 0; i < width_; i += kLineChannels) {
      float* place = line(i) + array * kLineChannels;
      for (int64_t j = 0; j < kLineChannels / 4; ++j) {
        body(i + j * 4, place + j % 2 * kLanes + j / 2 * 4);
      }
    }
  }

  HWY_INLINE void Put(const float* from, float scale, int array) {
    const DGroup d;
    ForGroups(array, [=](int64_t i, float* group) HWY_ATTR {
      hn::Store(hn::Mul(hn::LoadU(d, from + i), hn::Set(d, scale)), d, group);
    });
  }

  // Weights by tap, then the bias, as the first arrays.
  void PutWeights(const ConvWeights& w, float scale) {
    for (int k = 0; k < kFastTaps; ++k) Put(w.w[k], scale, k);
    Put(w.bias, scale, kFastTaps);
  }

 private:
  const int64_t width_;
  float* const lines_;
};

constexpr int kLineInputs = kFastRows + kFastTaps - 1;

// The convolution of half a line of kFastRows rows; x of the row K - 1 before.
template <int kHalf>
HWY_INLINE void ConvolveHalfLine(const BFloat16* x0, int64_t stride,
                                 const float* weights, VF (&x)[kLineInputs],
                                 VF* v) {
  for (int r = 0; r < kLineInputs; ++r) {
    x[r] = LoadHalfLine<kHalf>(x0 + r * stride);
  }
  for (int r = 0; r < kFastRows; ++r) {
    v[r] = LoadF(weights + kFastTaps * kLineChannels);
  }
  for (int k = 0; k < kFastTaps; ++k) {
    const VF wk = LoadF(weights + k * kLineChannels);
    for (int r = 0; r < kFastRows; ++r) v[r] = hn::MulAdd(wk, x[r + k], v[r]);
  }
}

// u := silu(v) to 2e-4, where u = -log2(e) v. What is one over 1 + 2^u is in
// fact one over -log2(e) times that, which takes u back to v.
template <int kN>
HWY_INLINE void SiluOfExponents(VF (&u)[kN]) {
  VF f[kN], p[kN];
  for (int j = 0; j < kN; ++j) f[j] = VF{_mm512_reduce_ps(u[j].raw, 0x09)};
  for (int j = 0; j < kN; ++j) {
    p[j] =
        hn::MulAdd(Set(-kLog2E * 0.0782613f), f[j], Set(-kLog2E * 0.2263117f));
  }
  for (float c : {-kLog2E * 0.6954270f, -kLog2E}) {
    for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(p[j], f[j], Set(c));
  }
  for (int j = 0; j < kN; ++j) p[j] = VF{_mm512_scalef_ps(p[j].raw, u[j].raw)};
  for (int j = 0; j < kN; ++j) {
    // Infinity gives 0.
    const VF sum = hn::Add(Set(-kLog2E), p[j]);
    u[j] = hn::Mul(u[j], VF{_mm512_rcp14_ps(sum.raw)});
  }
}

// The forward pass of one block of channels, for width / 32 * 32 of them.
class ForwardLines {
 public:
  static constexpr int kArrays = kFastTaps + 1;

  ForwardLines(const ConvWeights& w, int64_t width, bool silu, Scratch* scratch)
      : silu_(silu), arrays_(width, scratch) {
    arrays_.PutWeights(w, silu ? -kLog2E : 1.0f);
  }

  int64_t width() const { return arrays_.width(); }

  // kFastRows rows. x is of the row K - 1 before; `next` is fetched.
  HWY_INLINE void Rows(const BFloat16* HWY_RESTRICT x, const BFloat16* next,
                       int64_t x_stride, BFloat16* HWY_RESTRICT y,
                       int64_t y_stride, bool stream) const {
    stream = stream && cpu_rounds_to_bf16;
    for (int64_t i = 0; i < width(); i += kLineChannels) {
      const float* weights = arrays_.line(i);
      VF inputs[kLineInputs], v[2 * kFastRows];
      PrefetchRows(next + i, x_stride);
      ConvolveHalfLine<0>(x + i, x_stride, weights, inputs, v);
      ConvolveHalfLine<1>(x + i, x_stride, weights + kLanes, inputs,
                          v + kFastRows);
      if (silu_) SiluOfExponents(v);
      StoreLines(v, v + kFastRows, y + i, y_stride, stream);
    }
  }

 private:
  const bool silu_;
  LineArrays<kArrays> arrays_;
};

// The backward pass of one block of channels, for width / 32 * 32 of them.
//
// With silu the weights here are -log2(e) times what they are, which makes the
// convolution the exponent that the sigmoid needs, and dv and the sums are
// divided by that. Their products are dx all the same.
class BackwardLines {
 public:
  static constexpr int kArrays = 2 * (kFastTaps + 1) + kFastTaps - 1;

  BackwardLines(const ConvWeights& w, int64_t width, bool silu,
                Scratch* scratch)
      : silu_(silu), scale_(silu ? -kLog2E : 1.0f), arrays_(width, scratch) {
    arrays_.PutWeights(w, scale_);
  }

  int64_t width() const { return arrays_.width(); }

  // dv of the three rows behind those that Rows takes next, and of the three
  // first of those that it took last.
  void SetDv(int r, const float* dv) {
    arrays_.Put(dv, 1.0f / scale_, kDv + r);
  }
  void GetDv(int r, float* dv) const {
    const DGroup d;
    arrays_.ForGroups(kDv + r, [=](int64_t i, const float* group) HWY_ATTR {
      const auto v = hn::Mul(hn::Load(d, group), hn::Set(d, scale_));
      hn::StoreU(v, d, dv + i);
    });
  }

  void AddSums(float* const* dw) const {
    const DGroup d;
    for (int k = 0; k <= kFastTaps; ++k) {
      float* to = dw[k];
      arrays_.ForGroups(kSums + k, [=](int64_t i, const float* group) HWY_ATTR {
        const auto sum = hn::MulAdd(hn::Load(d, group), hn::Set(d, scale_),
                                    hn::LoadU(d, to + i));
        hn::StoreU(sum, d, to + i);
      });
    }
  }

  // kFastRows rows. x is of the row K - 1 before; x and dy of the rows `back`
  // before these are fetched.
  HWY_INLINE void Rows(const BFloat16* HWY_RESTRICT x, int64_t x_stride,
                       const BFloat16* HWY_RESTRICT dy, int64_t dy_stride,
                       BFloat16* HWY_RESTRICT dx, int64_t dx_stride,
                       int64_t back, bool stream) const {
    stream = stream && cpu_rounds_to_bf16;
    if (silu_) {
      Lines<true>(x, x_stride, dy, dy_stride, dx, dx_stride, back, stream);
    } else {
      Lines<false>(x, x_stride, dy, dy_stride, dx, dx_stride, back, stream);
    }
  }

 private:
  // The arrays of a line: weights by tap and bias, sums likewise, dv.
  static constexpr int kSums = kFastTaps + 1;
  static constexpr int kDv = 2 * kSums;

  template <bool kSilu>
  HWY_INLINE void Lines(const BFloat16* HWY_RESTRICT x, int64_t x_stride,
                        const BFloat16* HWY_RESTRICT dy, int64_t dy_stride,
                        BFloat16* HWY_RESTRICT dx, int64_t dx_stride,
                        int64_t back, bool stream) const {
    const BFloat16* next_x = x - back * x_stride;
    const BFloat16* next_dy = dy - back * dy_stride;
    for (int64_t i = 0; i < width(); i += kLineChannels) {
      float* line = arrays_.line(i);
      VF even[kFastRows], odd[kFastRows];
      PrefetchRows(next_x + i, x_stride);
      HalfLine<0, kSilu>(x + i, x_stride, dy + i, dy_stride, line, even);
      PrefetchRows(next_dy + i, dy_stride);
      HalfLine<1, kSilu>(x + i, x_stride, dy + i, dy_stride, line + kLanes,
                         odd);
      StoreLines(even, odd, dx + i, dx_stride, stream);
    }
  }

  template <int kHalf, bool kSilu>
  HWY_INLINE void HalfLine(const BFloat16* x0, int64_t x_stride,
                           const BFloat16* dy0, int64_t dy_stride, float* line,
                           VF* dx) const {
    float* sums = line + kSums * kLineChannels;
    float* dv = line + kDv * kLineChannels;
    VF x[kLineInputs], g[kLineInputs], u[kFastRows];
    ConvolveHalfLine<kHalf>(x0, x_stride, line, x, u);
    if constexpr (kSilu) {
      VF s[kFastRows];
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
      g[kFastRows + r] = LoadF(dv + r * kLineChannels);
      StoreF(g[r], dv + r * kLineChannels);
    }
    VF sum = LoadF(sums + kFastTaps * kLineChannels);
    for (int r = 0; r < kFastRows; ++r) sum = hn::Add(sum, g[r]);
    StoreF(sum, sums + kFastTaps * kLineChannels);
    for (int k = kFastTaps - 1; k >= 0; --k) {
      const VF wk = LoadF(line + k * kLineChannels);
      VF dwk = LoadF(sums + k * kLineChannels);
      for (int r = 0; r < kFastRows; ++r) {
        const VF user = g[r + kFastTaps - 1 - k];
        dx[r] = k == kFastTaps - 1 ? hn::Mul(wk, user)
                                   : hn::MulAdd(wk, user, dx[r]);
        dwk = hn::MulAdd(g[r], x[r + k], dwk);
      }
      StoreF(dwk, sums + k * kLineChannels);
    }
  }

  const bool silu_;
  const float scale_;
  LineArrays<kArrays> arrays_;
};

#else

struct ForwardLines {};
struct BackwardLines {};

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
