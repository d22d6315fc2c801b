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
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// [E, N] rows of one group to [N][16], zeros beyond E.
HWY_INLINE void TransposeGroupIn(const float* src, int64_t channels,
                                 int64_t states, int64_t group, float* dst) {
  const int64_t e0 = group * kScanGroup;
  const int64_t valid = std::min(kScanGroup, channels - e0);
  const float* rows = src + e0 * states;
#if HWY_TARGET <= HWY_AVX3
  for (int64_t n = 0; n < states; n += 16) {
    const int64_t count = std::min<int64_t>(16, states - n);
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    __m512 r[16];
    for (int i = 0; i < 16; ++i) {
      r[i] = i < valid ? _mm512_maskz_loadu_ps(mask, rows + i * states + n)
                       : _mm512_setzero_ps();
    }
    Transpose16(r);
    for (int i = 0; i < 16; ++i) {
      if (i < count) _mm512_storeu_ps(dst + (n + i) * 16, r[i]);
    }
  }
#else
  for (int64_t n = 0; n < states; ++n) {
    for (int64_t i = 0; i < valid; ++i) {
      dst[n * kScanGroup + i] = rows[i * states + n];
    }
    std::fill(dst + n * kScanGroup + valid, dst + (n + 1) * kScanGroup, 0.0f);
  }
#endif
}

// The inverse; adds to dst if kAdd.
template <bool kAdd = false>
HWY_INLINE void TransposeGroupOut(const float* src, int64_t channels,
                                  int64_t states, int64_t group, float* dst) {
  const int64_t e0 = group * kScanGroup;
  const int64_t valid = std::min(kScanGroup, channels - e0);
  float* rows = dst + e0 * states;
#if HWY_TARGET <= HWY_AVX3
  for (int64_t n = 0; n < states; n += 16) {
    const int64_t count = std::min<int64_t>(16, states - n);
    const auto mask = static_cast<__mmask16>((1u << count) - 1);
    __m512 r[16];
    for (int i = 0; i < 16; ++i) {
      r[i] =
          i < count ? _mm512_loadu_ps(src + (n + i) * 16) : _mm512_setzero_ps();
    }
    Transpose16(r);
    for (int i = 0; i < 16; ++i) {
      if (i >= valid) break;
      float* to = rows + i * states + n;
      if (kAdd) r[i] = _mm512_add_ps(r[i], _mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, r[i]);
    }
  }
#else
  for (int64_t i = 0; i < valid; ++i) {
    for (int64_t n = 0; n < states; ++n) {
      float& to = rows[i * states + n];
      to = src[n * kScanGroup + i] + (kAdd ? to : 0.0f);
    }
  }
#endif
}

// A [E, N] of a group to [N][16] in units of log2, so that exp(dt A) is
// exp2(dt A'). Clamped to finite values: 0 * -inf would be NaN.
HWY_INLINE void TransposeGroupA(const float* a, int64_t channels,
                                int64_t states, int64_t group, float* dst) {
  TransposeGroupIn(a, channels, states, group, dst);
  const VF most = Set(3e38f), least = Set(-3e38f);
  for (int64_t i = 0; i < states * kScanGroup; i += kLanes) {
    // Min and Max give their second operand where one is NaN.
    const VF v = hn::Mul(LoadF(dst + i), Set(kLog2E));
    StoreF(hn::Max(least, hn::Min(most, v)), dst + i);
  }
}

// States that are kept in registers at a time: two vectors each, beside some
// ten constants and operands. With 8 the loop is no shorter and GCC spills.
constexpr int kStateBlock = 4;

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

// One tile of B and C as floats [rows][2][N].
HWY_INLINE void LoadTile(const ConstMatView& v, int64_t row0, int64_t rows,
                         float* dst) {
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = (row0 + t) * v.stride;
    float* to = dst + t * 2 * v.cols;
    if (v.dtype == DType::kF32) {
      std::memcpy(to, static_cast<const float*>(v.data) + at,
                  v.cols * sizeof(float));
    } else {
      const BFloat16* p = static_cast<const BFloat16*>(v.data) + at;
      for (int64_t n = 0; n < v.cols; ++n) to[n] = ToFloat(p[n]);
    }
  }
}

// Addresses that an inner loop fetches ahead, one a token: the rows of the next
// panel, which the hardware prefetcher cannot see coming behind the stride of a
// row. Spread evenly, since a burst fills the line fill buffers; an addition
// and a load a token, since the loops' ports are full.
struct Prefetcher {
  const char* base;
  int64_t stride = 0;  // Bytes.

  // Nothing: one line that is there already.
  explicit Prefetcher(const void* any) : base(static_cast<const char*>(any)) {}

  // A vector from column `col` of the rows from `row`; nothing where there are
  // fewer than `rows`. Its end, since that is a line further where rows begin
  // anywhere, and the line before came with the vector before.
  Prefetcher(const ConstMatView& v, int64_t row, int64_t rows, int64_t col,
             const void* any)
      : base(static_cast<const char*>(any)) {
    if (v.data == nullptr || row < 0 || row + rows > v.rows) return;
    const int64_t size = SizeOf(v.dtype);
    base = static_cast<const char*>(v.data) +
           (row * v.stride + col + kLanes - 1) * size;
    stride = v.stride * size;
  }

  // Into L2: L1 holds what the loop works on.
  HWY_INLINE void Next() {
    __builtin_prefetch(base, 0, 2);
    base += stride;
  }
  // All at once, where there are too few loops to spread them over.
  HWY_INLINE void Burst(int64_t rows) {
    if (stride == 0) return;
    for (int64_t t = 0; t < rows; ++t) Next();
  }
};

// Writes vectors of a matrix [B*T, E], past the caches where it can.
struct VectorWriter {
  MatView view;
  bool stream;
  bool lines;  // Rows had better go through LineWriter.

  explicit VectorWriter(const MatView& v)
      : view(v),
        stream(CanStream(v.data, v.dtype, v.stride)),
        lines(!stream && v.dtype == DType::kF32 && IsLarge(v)) {}

  // The first `left` lanes, or all.
  HWY_INLINE void Write(VF x, int64_t row, int64_t col, int64_t left) const {
    const int64_t at = row * view.stride + col;
    if (view.dtype == DType::kF32) {
      float* p = static_cast<float*>(view.data) + at;
      if (left < kLanes) {
        if (left > 0) StoreF(x, p, FirstLanes{left});
      } else if (stream) {
        StreamF(x, p);
      } else {
        StoreF(x, p);
      }
    } else {
      BFloat16* p = static_cast<BFloat16*>(view.data) + at;
      if (left < kLanes) {
        if (left > 0) StoreF(x, p, FirstLanes{left});
      } else {
        StoreF(x, p);
      }
    }
  }
};

// Writes a tile of an fp32 matrix whose rows begin anywhere, panel after panel
// of columns, as whole lines past the caches: what a panel leaves of a line
// waits for the next. Lines written in parts would be read first, and two
// threads that do so have been seen to take twice the time of the whole pass.
struct LineWriter {
  static constexpr int64_t kTails = kScanTile * kLanes;
  float* tails;  // [kScanTile][kLanes]: the beginnings of lines

  // Columns [col, col + width) of row `t` of the tile, `row` of the matrix;
  // whether they are the first and the last of this thread's. All but the last
  // are whole groups. Reads a vector's length beyond both ends of `from`.
  HWY_INLINE void Write(const MatView& v, int64_t t, int64_t row, int64_t col,
                        int64_t width, const float* from, bool first,
                        bool last) const {
    float* to = static_cast<float*>(v.data) + row * v.stride + col;
    float* tail = tails + t * kLanes;
    const int64_t in_line = reinterpret_cast<uintptr_t>(to) / 4 % kLanes;
    int64_t i = in_line == 0 ? 0 : std::min(width, kLanes - in_line);
    if (i > 0 && first) {
      StoreF(LoadF(from), to, FirstLanes{i});
    } else if (i > 0) {
      const VF line = hn::IfThenElse(hn::FirstN(DF(), in_line), LoadF(tail),
                                     LoadF(from - in_line));
      if (in_line + i == kLanes) {
        StreamF(line, to - in_line);
      } else {
        StoreF(line, to - in_line, FirstLanes{in_line + i});
      }
    }
    for (; i + kLanes <= width; i += kLanes) StreamF(LoadF(from + i), to + i);
    if (i == width) return;
    if (last) {
      StoreF(LoadF(from + i), to + i, FirstLanes{width - i});
    } else {
      StoreF(LoadF(from + i), tail);
    }
  }
};

// The first `left` lanes of a vector of a matrix; the others are zero.
HWY_INLINE VF ReadVector(const ConstMatView& v, int64_t row, int64_t col,
                         int64_t left) {
  if (left <= 0) return Zero();
  const int64_t at = row * v.stride + col;
  if (v.dtype == DType::kF32) {
    const float* p = static_cast<const float*>(v.data) + at;
    return left < kLanes ? LoadF(p, FirstLanes{left}) : LoadF(p);
  }
  const BFloat16* p = static_cast<const BFloat16*>(v.data) + at;
  return left < kLanes ? LoadF(p, FirstLanes{left}) : LoadF(p);
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_INL_H_
