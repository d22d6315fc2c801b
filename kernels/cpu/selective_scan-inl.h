// Pieces of the scan's forward and backward passes: row segments of a panel of
// channels on their way into and out of scratch, and prefetching.

#if defined(CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#undef CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#else
#define CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
#endif

#include <type_traits>

#include "kernels/cpu/selective_scan_layout.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// States that are kept in registers at a time: two vectors each, beside some
// ten constants and operands.
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kStateBlock = 8;
#else
constexpr int kStateBlock = 4;
#endif

// Vectors that go through softplus and silu side by side.
constexpr int kScanBatch = 4;

// Calls body(n, size) so that blocks of size.value states cover [0, states).
template <int kMax, class Body>
HWY_INLINE void ForStateBlocks(int64_t states, const Body& body) {
  int64_t n = 0;
  for (; n + kMax <= states; n += kMax)
    body(n, std::integral_constant<int, kMax>());
  if constexpr (kMax > 4) {
    for (; n + 4 <= states; n += 4) body(n, std::integral_constant<int, 4>());
  }
  for (; n < states; ++n) body(n, std::integral_constant<int, 1>());
}

// All ones for a token that sees the state before it, zeros at a document
// start: and-ed, so that not even a NaN passes.
HWY_INLINE VF KeepMask(const uint32_t* keep) {
  return hn::BitCast(DF(), hn::Set(DU(), *keep));
}

// One tile of B or C as floats [rows][states].
HWY_INLINE void LoadTile(const ConstMatView& v, int64_t row0, int64_t rows,
                         float* dst) {
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = (row0 + t) * v.stride;
    if (v.dtype == DType::kF32) {
      std::memcpy(dst + t * v.cols, static_cast<const float*>(v.data) + at,
                  v.cols * sizeof(float));
    } else {
      const BFloat16* p = static_cast<const BFloat16*>(v.data) + at;
      for (int64_t n = 0; n < v.cols; ++n) dst[t * v.cols + n] = ToFloat(p[n]);
    }
  }
}

// The same rows of the next panel, which the hardware prefetcher cannot see
// coming behind the stride of a row.
struct Prefetcher {
  const char* base = nullptr;
  int64_t stride = 0;  // Bytes.
  int64_t last = 0;    // Last row that exists.

  static HWY_INLINE Prefetcher Of(const ConstMatView& v, int64_t row,
                                  int64_t rows, int64_t col) {
    if (v.data == nullptr || rows <= 0) return {};
    const int64_t size = SizeOf(v.dtype);
    return {static_cast<const char*>(v.data) + (row * v.stride + col) * size,
            v.stride * size, rows - 1};
  }
  // Into L2: L1 holds what the inner loop works on.
  HWY_INLINE void Touch(int64_t t, int64_t byte) const {
    if (base == nullptr) return;
    __builtin_prefetch(base + std::min(t, last) * stride + byte, 0, 2);
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
