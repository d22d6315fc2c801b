// A transpose in registers. Included once per target.

#if defined(CARRY_KERNELS_CPU_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_TRANSPOSE_INL_H_
#undef CARRY_KERNELS_CPU_TRANSPOSE_INL_H_
#else
#define CARRY_KERNELS_CPU_TRANSPOSE_INL_H_
#endif

#include <type_traits>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

#if HWY_TARGET <= HWY_AVX3
// Rows to columns, of any values of 4 bytes.
HWY_INLINE void Transpose16(__m512 (&r)[16]) {
  __m512 t[16];
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto pairs = [](__m512 a, __m512 b, auto upper) HWY_ATTR {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_castpd_ps(upper.value ? _mm512_unpackhi_pd(x, y)
                                        : _mm512_unpacklo_pd(x, y));
  };
  for (int i = 0; i < 16; i += 4) {
    r[i] = pairs(t[i], t[i + 2], std::false_type());
    r[i + 1] = pairs(t[i], t[i + 2], std::true_type());
    r[i + 2] = pairs(t[i + 1], t[i + 3], std::false_type());
    r[i + 3] = pairs(t[i + 1], t[i + 3], std::true_type());
  }
  // Quarter l of r[4 i + c] is column 4 l + c of rows 4 i and on.
  for (int c = 0; c < 4; ++c) {
    const __m512 even0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    const __m512 odd0 = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const __m512 even1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const __m512 odd1 = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(even0, even1, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(even0, even1, 0xdd);
    t[12 + c] = _mm512_shuffle_f32x4(odd0, odd1, 0xdd);
  }
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_TRANSPOSE_INL_H_
