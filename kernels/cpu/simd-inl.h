// What the SIMD bodies share: vectors of at most 16 floats, loads and stores of
// fp32 and bf16, exp, sigmoid, softplus. Included once per target.

#if defined(CARRY_KERNELS_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SIMD_INL_H_
#undef CARRY_KERNELS_CPU_SIMD_INL_H_
#else
#define CARRY_KERNELS_CPU_SIMD_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/types.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// 16 lanes are one cache line and the group that the scan's layouts count in.
using DF = hn::CappedTag<float, 16>;
using DU = hn::RebindToUnsigned<DF>;
using D16 = hn::Rebind<uint16_t, DF>;
using VF = hn::Vec<DF>;
constexpr int64_t kLanes = hn::MaxLanes(DF());

HWY_INLINE VF Set(float x) { return hn::Set(DF(), x); }
HWY_INLINE VF Zero() { return hn::Zero(DF()); }

// How many lanes of a vector lie inside a row.
struct AllLanes {};
struct FirstLanes {
  int64_t n;  // 0 < n < kLanes
};

HWY_INLINE VF LoadF(const float* p) { return hn::LoadU(DF(), p); }
HWY_INLINE VF LoadF(const BFloat16* p) {
#if HWY_TARGET <= HWY_AVX3
  // Each half to the upper half of a lane, zeros below: one uop for two.
  const __m512i places =
      _mm512_set_epi32(15 << 16, 14 << 16, 13 << 16, 12 << 16, 11 << 16,
                       10 << 16, 9 << 16, 8 << 16, 7 << 16, 6 << 16, 5 << 16,
                       4 << 16, 3 << 16, 2 << 16, 1 << 16, 0);
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return VF{_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(
      0xaaaaaaaau, places, _mm512_castsi256_si512(half)))};
#else
  const auto bits = hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(p));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits)));
#endif
}

HWY_INLINE void StoreF(VF v, float* p) { hn::StoreU(v, DF(), p); }

// Rounds to nearest even, NaN stays NaN, as ToBFloat16 does, but a denormal may
// become zero.
HWY_INLINE hn::Vec<D16> RoundToBf16(VF v) {
#if HWY_TARGET <= HWY_AVX3
  if (HWY_LIKELY(cpu_rounds_to_bf16)) {
    // No target of the oldest Highway that we support has this instruction.
    __m256i half;
    asm("vcvtneps2bf16 %1, %0" : "=v"(half) : "v"(v.raw));
    return hn::Vec<D16>{half};
  }
#endif
  const DU du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto quiet = hn::Or(bits, hn::Set(du, 0x400000u));
  const auto chosen =
      hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  return hn::TruncateTo(D16(), hn::ShiftRight<16>(chosen));
}
HWY_INLINE void StoreF(VF v, BFloat16* p) {
  hn::StoreU(RoundToBf16(v), D16(), reinterpret_cast<uint16_t*>(p));
}

// Past the caches. p must be aligned to what is written.
HWY_INLINE void StreamF(VF v, float* p) { hn::Stream(v, DF(), p); }
HWY_INLINE void StreamF(VF v, BFloat16* p) {
#if HWY_TARGET <= HWY_AVX2
  hn::Stream(RoundToBf16(v), D16(), reinterpret_cast<uint16_t*>(p));
#else
  StoreF(v, p);
#endif
}

// kN vectors side by side, past the caches. For bf16 two of 16 lanes are
// joined: half a line written so costs as much as a whole one.
template <int kN>
HWY_INLINE void StreamLine(const VF (&v)[kN], float* p) {
  for (int j = 0; j < kN; ++j) StreamF(v[j], p + j * kLanes);
}
template <int kN>
HWY_INLINE void StreamLine(const VF (&v)[kN], BFloat16* p) {
#if HWY_TARGET <= HWY_AVX3
  if constexpr (kN % 2 == 0) {
    const hn::Twice<D16> d;
    for (int j = 0; j < kN; j += 2) {
      hn::Stream(hn::Combine(d, RoundToBf16(v[j + 1]), RoundToBf16(v[j])), d,
                 reinterpret_cast<uint16_t*>(p + j * kLanes));
    }
    return;
  }
#endif
  for (int j = 0; j < kN; ++j) StreamF(v[j], p + j * kLanes);
}

// How many vectors StreamLine takes to write whole lines.
template <class T>
constexpr int kLineVectors =
    HWY_TARGET <= HWY_AVX3&& std::is_same_v<T, BFloat16> ? 2 : 1;

// Whether StreamLine of kN vectors at multiples of their width writes rows of v
// well.
template <int kN>
HWY_INLINE bool CanStreamLines(const MatView& v) {
  const int64_t bytes = kN * kLanes * SizeOf(v.dtype);
  return reinterpret_cast<uintptr_t>(v.data) % bytes == 0 &&
         v.stride * SizeOf(v.dtype) % bytes == 0;
}

// Whether a matrix would not be in L2 any more when it is read.
HWY_INLINE bool IsLarge(const MatView& v) {
  return v.rows * v.cols * static_cast<int64_t>(SizeOf(v.dtype)) >= 4 << 20;
}

// Whether its rows go past the caches; T: its type.
template <class T>
HWY_INLINE bool ShouldStream(const MatView& v) {
  constexpr int64_t kBytes = kLanes * sizeof(T);
  return IsLarge(v) && reinterpret_cast<uintptr_t>(v.data) % kBytes == 0 &&
         v.stride % kLanes == 0;
}
template <class T>
HWY_INLINE void StoreOrStream(VF v, T* p, bool stream, AllLanes) {
  if (stream) {
    StreamF(v, p);
  } else {
    StoreF(v, p);
  }
}

template <class T>
HWY_INLINE VF LoadF(const T* p, AllLanes) {
  return LoadF(p);
}
// Lanes at and beyond n are zero; nothing beyond them is read.
template <class T>
HWY_INLINE VF LoadF(const T* p, FirstLanes lanes) {
  HWY_ALIGN T buffer[kLanes] = {};
  std::memcpy(buffer, p, lanes.n * sizeof(T));
  return LoadF(buffer);
}
template <class T>
HWY_INLINE void StoreF(VF v, T* p, AllLanes) {
  StoreF(v, p);
}
template <class T>
HWY_INLINE void StoreF(VF v, T* p, FirstLanes lanes) {
  HWY_ALIGN T buffer[kLanes];
  StoreF(v, buffer);
  std::memcpy(p, buffer, lanes.n * sizeof(T));
}

template <class T>
HWY_INLINE void StoreOrStream(VF v, T* p, bool, FirstLanes lanes) {
  StoreF(v, p, lanes);
}

// Calls body(i, lanes) for i = 0, kLanes, .. and the rest of n.
template <class Body>
HWY_INLINE void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, AllLanes());
  if (i < n) body(i, FirstLanes{n - i});
}

HWY_INLINE float Sum(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }

// to[i] = the sum of the lanes of vector i of n. `to` may be `from`.
HWY_INLINE void SumEachVector(const float* from, int64_t n, float* to) {
  int64_t i = 0;
#if HWY_TARGET <= HWY_AVX3
  // 16 vectors fold into one: each step adds the halves of two into one, 15
  // additions and 30 shuffles instead of 64 and 64.
  for (; i + 16 <= n; i += 16) {
    __m512 v[16];
    for (int j = 0; j < 16; ++j) v[j] = _mm512_loadu_ps(from + (i + j) * 16);
    for (int j = 0; j < 8; ++j) {
      v[j] = _mm512_add_ps(_mm512_shuffle_f32x4(v[j], v[j + 8], 0x44),
                           _mm512_shuffle_f32x4(v[j], v[j + 8], 0xee));
    }
    for (int j = 0; j < 4; ++j) {
      v[j] = _mm512_add_ps(_mm512_shuffle_f32x4(v[j], v[j + 4], 0x88),
                           _mm512_shuffle_f32x4(v[j], v[j + 4], 0xdd));
    }
    for (int j = 0; j < 2; ++j) {
      v[j] = _mm512_add_ps(_mm512_shuffle_ps(v[j], v[j + 2], 0x44),
                           _mm512_shuffle_ps(v[j], v[j + 2], 0xee));
    }
    v[0] = _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88),
                         _mm512_shuffle_ps(v[0], v[1], 0xdd));
    // Lane l holds the sum of the vector whose index has the bits of l in
    // another order.
    const __m512i order =
        _mm512_set_epi32(15, 13, 14, 12, 7, 5, 6, 4, 11, 9, 10, 8, 3, 1, 2, 0);
    _mm512_storeu_ps(to + i, _mm512_permutexvar_ps(order, v[0]));
  }
#endif
  for (; i < n; ++i) to[i] = Sum(LoadF(from + i * kLanes));
}

constexpr float kLog2E = 1.44269504089f;
constexpr float kLn2 = 0.69314718056f;

// The functions below work on kN vectors at once, one step of all before the
// next step of any. A chain of 20 dependent operations takes 80 cycles, and the
// scheduler's hundred entries hold but four such chains written one behind the
// other; side by side they fill the pipes.
//
// Calls body(i, std::integral_constant<int, kN>) so that blocks of kN vectors
// at element i cover [0, n); n a multiple of kLanes.
template <int kMax, class Body>
HWY_INLINE void ForBatches(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kMax * kLanes <= n; i += kMax * kLanes) {
    body(i, std::integral_constant<int, kMax>());
  }
  for (; i < n; i += kLanes) body(i, std::integral_constant<int, 1>());
}

// v where it is no less; NaN stays NaN.
HWY_INLINE VF AtLeast(float least, VF v) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR
  return hn::Max(Set(least), v);  // The second operand where one is NaN.
#else
  return hn::IfThenElse(hn::Lt(v, Set(least)), Set(least), v);
#endif
}

// y := 2^y for y <= 126, relative error 2e-7; also exact towards y = 0 (2^y - 1
// is right to 4e-6 of itself), which long products of decays depend on.
// -inf gives 0, NaN stays NaN.
template <int kN>
HWY_INLINE void Exp2(VF (&y)[kN]) {
  VF f[kN], p[kN];
#if HWY_TARGET <= HWY_AVX3
  // y = k + f with k = floor(y): f by vreduceps, the scaling by vscalefps, one
  // uop each. p is minimax on [0, 1] anchored at p(0) = 1 and p(1) = 2.
  // Last bits such that rounding does not favour one side near y = 0, where a
  // slowly decaying state multiplies thousands of them.
  const float c[] = {0.001879318648f, 0.008990995096f, 0.05581873655f,
                     0.2401592582f,   0.6931517124f,   1.0f};
  for (int j = 0; j < kN; ++j) f[j] = VF{_mm512_reduce_ps(y[j].raw, 0x09)};
#else
  // y = k + f with k the nearest integer, found by adding 1.5 * 2^23, whose low
  // bits then are k: shifted into the exponent they scale p. y = -127 makes p's
  // 1 the bits of 0.
  const float c[] = {0.001330026411f, 0.009669708415f, 0.05550559994f,
                     0.2402228161f,   0.6931471806f,   1.0f};
  const DU du;
  const VF magic = Set(12582912.0f);
  VF shifted[kN];
  for (int j = 0; j < kN; ++j) y[j] = AtLeast(-127.0f, y[j]);
  for (int j = 0; j < kN; ++j) shifted[j] = hn::Add(y[j], magic);
  for (int j = 0; j < kN; ++j) {
    f[j] = hn::Sub(y[j], hn::Sub(shifted[j], magic));
  }
#endif
  for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(Set(c[0]), f[j], Set(c[1]));
  for (int i = 2; i < 6; ++i) {
    for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(p[j], f[j], Set(c[i]));
  }
#if HWY_TARGET <= HWY_AVX3
  for (int j = 0; j < kN; ++j) y[j] = VF{_mm512_scalef_ps(p[j].raw, y[j].raw)};
#else
  for (int j = 0; j < kN; ++j) {
    const auto k = hn::ShiftLeft<23>(hn::BitCast(du, shifted[j]));
    y[j] = hn::BitCast(DF(), hn::Add(hn::BitCast(du, p[j]), k));
  }
#endif
}

// y := 2^y to 1.1e-4 of itself, which is a twentieth of what rounding to bf16
// costs; for results that only bf16 takes, two thirds of the work.
template <int kN>
HWY_INLINE void Exp2ForBf16(VF (&y)[kN]) {
#if HWY_TARGET <= HWY_AVX3
  VF f[kN], p[kN];
  for (int j = 0; j < kN; ++j) f[j] = VF{_mm512_reduce_ps(y[j].raw, 0x09)};
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(Set(0.0782613f), f[j], Set(0.2263117f));
  }
  for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(p[j], f[j], Set(0.6954270f));
  for (int j = 0; j < kN; ++j) p[j] = hn::MulAdd(p[j], f[j], Set(1.0f));
  for (int j = 0; j < kN; ++j) y[j] = VF{_mm512_scalef_ps(p[j].raw, y[j].raw)};
#else
  Exp2(y);
#endif
}

// v := 1 / v for v in [1, 2^100].
template <int kN>
HWY_INLINE void Reciprocal(VF (&v)[kN]) {
#if HWY_TARGET <= HWY_AVX3
  // 14 bits and a Newton step: vdivps would hold its port for 10 cycles.
  VF r[kN];
  for (int j = 0; j < kN; ++j) r[j] = VF{_mm512_rcp14_ps(v[j].raw)};
  for (int j = 0; j < kN; ++j) v[j] = hn::NegMulAdd(v[j], r[j], Set(1.0f));
  for (int j = 0; j < kN; ++j) v[j] = hn::MulAdd(r[j], v[j], r[j]);
#else
  for (int j = 0; j < kN; ++j) v[j] = hn::Div(Set(1.0f), v[j]);
#endif
}

// s := 1 / (1 + exp(-x)); at least 2^-126.
template <int kN>
HWY_INLINE void Sigmoid(const VF (&x)[kN], VF (&s)[kN]) {
  for (int j = 0; j < kN; ++j) {
    // Min gives its second operand where one is NaN.
    s[j] = hn::Min(Set(126.0f), hn::Mul(x[j], Set(-kLog2E)));
  }
  Exp2(s);
  for (int j = 0; j < kN; ++j) s[j] = hn::Add(Set(1.0f), s[j]);
  Reciprocal(s);
}

// The same to 2e-4, for results that only bf16 takes.
template <int kN>
HWY_INLINE void SigmoidForBf16(const VF (&x)[kN], VF (&s)[kN]) {
#if HWY_TARGET <= HWY_AVX3
  // At most 2^126, so that the reciprocal is not denormal; as in Sigmoid.
  for (int j = 0; j < kN; ++j) {
    s[j] = hn::Min(Set(126.0f), hn::Mul(x[j], Set(-kLog2E)));
  }
  Exp2ForBf16(s);
  for (int j = 0; j < kN; ++j) {
    s[j] = VF{_mm512_rcp14_ps(hn::Add(Set(1.0f), s[j]).raw)};
  }
#else
  Sigmoid(x, s);
#endif
}

// y := log(1 + exp(x)), right to 2e-7 of itself for any x, and if kSlope
// slope := its derivative, 1 / (1 + exp(-x)). NaN stays NaN.
//
// y = max(x, 0) + log1p(e) with e = exp(-|x|), and log1p(e) = 2 atanh(s) with
// s = e / (2 + e) in [0, 1/3]. The slope is 1 / (1 + e), or e / (1 + e) for
// x < 0; one reciprocal, of (1 + e) (2 + e), serves both.
//
// In two steps, since e and what to take the reciprocal of can go through
// Exp2 and Reciprocal with others.
template <bool kSlope, int kN>
HWY_INLINE void SoftplusDenominator(const VF* e, VF (&s)[kN]) {
  for (int j = 0; j < kN; ++j) {
    s[j] = hn::Add(Set(2.0f), e[j]);
    if constexpr (kSlope) s[j] = hn::Mul(s[j], hn::Add(Set(1.0f), e[j]));
  }
}
template <bool kSlope, int kN>
HWY_INLINE void SoftplusOf(const VF (&x)[kN], const VF* e, const VF* inverse,
                           VF (&y)[kN], VF (&slope)[kN]) {
  VF s[kN], w[kN], p[kN];
  for (int j = 0; j < kN; ++j) {
    s[j] = hn::Mul(e[j], inverse[j]);
    if constexpr (kSlope) {
      const VF r = hn::Mul(inverse[j], hn::Add(Set(2.0f), e[j]));
      slope[j] = hn::IfThenElse(hn::Lt(x[j], Zero()), hn::Mul(e[j], r), r);
      s[j] = hn::MulAdd(s[j], e[j], s[j]);
    }
  }
  for (int j = 0; j < kN; ++j) w[j] = hn::Mul(s[j], s[j]);
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(Set(0.1401222904f), w[j], Set(0.1399957063f));
  }
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(p[j], w[j], Set(0.2001084952f));
  }
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(p[j], w[j], Set(0.3333320657f));
    s[j] = hn::Add(s[j], s[j]);
  }
  for (int j = 0; j < kN; ++j) {
    p[j] = hn::MulAdd(hn::Mul(s[j], w[j]), p[j], s[j]);
    y[j] = hn::Add(hn::Max(Zero(), x[j]), p[j]);
  }
}
template <bool kSlope, int kN>
HWY_INLINE void Softplus(const VF (&x)[kN], VF (&y)[kN], VF (&slope)[kN]) {
  VF e[kN], s[kN];
  for (int j = 0; j < kN; ++j) e[j] = hn::Mul(hn::Abs(x[j]), Set(-kLog2E));
  Exp2(e);
  SoftplusDenominator<kSlope>(e, s);
  Reciprocal(s);
  SoftplusOf<kSlope>(x, e, s, y, slope);
}

// Softplus of x and Sigmoid of z side by side.
template <bool kSlope, int kN>
HWY_INLINE void SoftplusAndSigmoid(const VF (&x)[kN], VF (&y)[kN],
                                   VF (&slope)[kN], const VF (&z)[kN],
                                   VF (&sigmoid)[kN]) {
  VF e[2 * kN], d[kN], inverse[2 * kN];
  for (int j = 0; j < kN; ++j) {
    e[j] = hn::Mul(hn::Abs(x[j]), Set(-kLog2E));
    e[kN + j] = hn::Min(Set(126.0f), hn::Mul(z[j], Set(-kLog2E)));
  }
  Exp2(e);
  SoftplusDenominator<kSlope>(e, d);
  for (int j = 0; j < kN; ++j) {
    inverse[j] = d[j];
    inverse[kN + j] = hn::Add(Set(1.0f), e[kN + j]);
  }
  Reciprocal(inverse);
  for (int j = 0; j < kN; ++j) sigmoid[j] = inverse[kN + j];
  SoftplusOf<kSlope>(x, e, inverse, y, slope);
}

// A row segment as floats, in whole lines of 16: the view's own memory where
// that is fp32 and the width a multiple of 16, else converted into `buffer` and
// padded with zeros.
HWY_INLINE const float* RowAsFloat(const ConstMatView& v, int64_t row,
                                   int64_t col, int64_t width, float* buffer) {
  const int64_t at = row * v.stride + col;
  const auto convert = [&](const auto* p) HWY_ATTR {
    ForLanes(width, [&](int64_t i, auto lanes)
                        HWY_ATTR { StoreF(LoadF(p + i, lanes), buffer + i); });
  };
  if (v.dtype == DType::kF32) {
    const float* p = static_cast<const float*>(v.data) + at;
    if (width % 16 == 0) return p;
    convert(p);
  } else {
    convert(static_cast<const BFloat16*>(v.data) + at);
  }
  std::fill(buffer + width, buffer + (width + 15) / 16 * 16, 0.0f);
  return buffer;
}

// Whether fp32 rows from `p` with this stride can be written past the caches.
HWY_INLINE bool CanStream(const void* p, DType dtype, int64_t stride) {
  constexpr int64_t kBytes = kLanes * 4;
  return dtype == DType::kF32 && reinterpret_cast<uintptr_t>(p) % kBytes == 0 &&
         stride % kLanes == 0;
}

// Writes a row segment; `stream` as CanStream says and `col` a multiple of
// kLanes.
HWY_INLINE void StoreRow(const float* src, const MatView& v, int64_t row,
                         int64_t col, int64_t width, bool stream) {
  const int64_t at = row * v.stride + col;
  if (v.dtype == DType::kBF16) {
    BFloat16* p = static_cast<BFloat16*>(v.data) + at;
    ForLanes(width, [&](int64_t i, auto lanes)
                        HWY_ATTR { StoreF(LoadF(src + i), p + i, lanes); });
    return;
  }
  float* p = static_cast<float*>(v.data) + at;
  if (!stream) {
    ForLanes(width, [&](int64_t i, auto lanes)
                        HWY_ATTR { StoreF(LoadF(src + i), p + i, lanes); });
    return;
  }
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) StreamF(LoadF(src + i), p + i);
  if (i < width) StoreF(LoadF(src + i), p + i, FirstLanes{width - i});
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SIMD_INL_H_
