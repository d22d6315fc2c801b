#include "kernels/elementwise.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// `total`: elements of the whole call.
template <class TSrc, class TDst>
HWY_INLINE void CastTyped(const TSrc* src, TDst* dst, int64_t n,
                          int64_t total) {
  const bool stream = ShouldStream<TDst>({dst, DType::kF32, 1, total, 0});
  ForLanes(n, [=](int64_t i, auto lanes) HWY_ATTR {
    StoreOrStream(LoadF(src + i, lanes), dst + i, stream, lanes);
  });
  hwy::FlushStream();
}

void CastToBf16(const float* src, BFloat16* dst, int64_t n, int64_t total) {
  CastTyped(src, dst, n, total);
}
void CastToFloat(const BFloat16* src, float* dst, int64_t n, int64_t total) {
  CastTyped(src, dst, n, total);
}

template <class To, class From>
HWY_INLINE void AddTyped(To* dst, const From* src, int64_t n) {
  ForLanes(n, [&](int64_t i, auto lanes) HWY_ATTR {
    const VF sum = hn::Add(LoadF(dst + i, lanes), LoadF(src + i, lanes));
    StoreF(sum, dst + i, lanes);
  });
}
void AddFloat(float* dst, const float* src, int64_t n) {
  AddTyped(dst, src, n);
}
void AddBf16(float* dst, const BFloat16* src, int64_t n) {
  AddTyped(dst, src, n);
}

void AddFloatToBf16(BFloat16* dst, const float* src, int64_t n) {
  AddTyped(dst, src, n);
}
void AddBf16ToBf16(BFloat16* dst, const BFloat16* src, int64_t n) {
  AddTyped(dst, src, n);
}

void AddProductRange(float* dst, const float* a, const float* b, int64_t n) {
  ForLanes(n, [&](int64_t i, auto lanes) HWY_ATTR {
    const VF sum = hn::MulAdd(LoadF(a + i, lanes), LoadF(b + i, lanes),
                              LoadF(dst + i, lanes));
    StoreF(sum, dst + i, lanes);
  });
}

void ScaleRange(float* x, float factor, int64_t n) {
  ForLanes(n, [&](int64_t i, auto lanes) HWY_ATTR {
    StoreF(hn::Mul(LoadF(x + i, lanes), Set(factor)), x + i, lanes);
  });
}

// dst[c][r] = src[r][c] for a block of at most 8 x 8.
HWY_INLINE void TransposeSquare(const uint16_t* HWY_RESTRICT src,
                                int64_t stride, int64_t rows, int64_t cols,
                                uint16_t* HWY_RESTRICT dst,
                                int64_t dst_stride) {
#if HWY_TARGET != HWY_SCALAR
  if (rows == 8 && cols == 8) {
    // Neighbours interleave three times: 16, 32, 64 bits.
    const hn::Full128<uint16_t> d16;
    const hn::Full128<uint32_t> d32;
    const hn::Full128<uint64_t> d64;
    hn::Vec<decltype(d16)> v[8], w[8];
    for (int i = 0; i < 8; ++i) v[i] = hn::LoadU(d16, src + i * stride);
    for (int i = 0; i < 4; ++i) {
      w[2 * i] = hn::InterleaveLower(d16, v[2 * i], v[2 * i + 1]);
      w[2 * i + 1] = hn::InterleaveUpper(d16, v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 2; ++i) {
      for (int j = 0; j < 2; ++j) {
        const auto a = hn::BitCast(d32, w[4 * i + j]);
        const auto b = hn::BitCast(d32, w[4 * i + j + 2]);
        v[4 * i + 2 * j] = hn::BitCast(d16, hn::InterleaveLower(d32, a, b));
        v[4 * i + 2 * j + 1] = hn::BitCast(d16, hn::InterleaveUpper(d32, a, b));
      }
    }
    for (int i = 0; i < 4; ++i) {
      const auto a = hn::BitCast(d64, v[i]);
      const auto b = hn::BitCast(d64, v[i + 4]);
      hn::StoreU(hn::BitCast(d16, hn::InterleaveLower(d64, a, b)), d16,
                 dst + 2 * i * dst_stride);
      hn::StoreU(hn::BitCast(d16, hn::InterleaveUpper(d64, a, b)), d16,
                 dst + (2 * i + 1) * dst_stride);
    }
    return;
  }
#endif
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) {
      dst[c * dst_stride + r] = src[r * stride + c];
    }
  }
}

// A block of 32 x 32; each line of dst is written at once.
HWY_INLINE void TransposeBlock(const uint16_t* HWY_RESTRICT src, int64_t stride,
                               uint16_t* HWY_RESTRICT dst, int64_t dst_stride,
                               bool stream) {
#if HWY_TARGET <= HWY_AVX3
  // Two rows interleaved are 16 words of a column's neighbours. Quarter l of
  // the lower interleaving has columns 8 l to 8 l + 3, of the upper the next 4.
  for (int upper = 0; upper < 2; ++upper) {
    __m512 r[16];
    for (int i = 0; i < 16; ++i) {
      const __m512i a = _mm512_loadu_si512(src + 2 * i * stride);
      const __m512i b = _mm512_loadu_si512(src + (2 * i + 1) * stride);
      r[i] = _mm512_castsi512_ps(upper != 0 ? _mm512_unpackhi_epi16(a, b)
                                            : _mm512_unpacklo_epi16(a, b));
    }
    Transpose16(r);
    for (int i = 0; i < 16; ++i) {
      float* line = reinterpret_cast<float*>(
          dst + (i / 4 * 8 + upper * 4 + i % 4) * dst_stride);
      if (stream) {
        _mm512_stream_ps(line, r[i]);
      } else {
        _mm512_storeu_ps(line, r[i]);
      }
    }
  }
#else
  (void)stream;
  for (int64_t c = 0; c < 32; c += 8) {
    for (int64_t r = 0; r < 32; r += 8) {
      TransposeSquare(src + r * stride + c, stride, 8, 8,
                      dst + c * dst_stride + r, dst_stride);
    }
  }
#endif
}

// Columns [c0, c1) of src [rows, .] to rows of dst [., rows].
void TransposeColumns(const uint16_t* src, int64_t stride, int64_t rows,
                      int64_t c0, int64_t c1, bool stream, uint16_t* dst) {
  constexpr int64_t kBand = 32;
  for (int64_t r0 = 0; r0 < rows; r0 += kBand) {
    const int64_t r1 = std::min(rows, r0 + kBand);
    // The next band: rows a stride apart hide from the hardware prefetcher.
    for (int64_t r = r1; r < std::min(rows, r1 + kBand); ++r) {
      for (int64_t c = c0; c < c1; c += kBand) {
        __builtin_prefetch(src + r * stride + c, 0, 2);
      }
    }
    for (int64_t c = c0; c < c1; c += kBand) {
      const int64_t width = std::min(kBand, c1 - c);
      if (r1 - r0 == kBand && width == kBand) {
        TransposeBlock(src + r0 * stride + c, stride, dst + c * rows + r0, rows,
                       stream);
        continue;
      }
      for (int64_t i = c; i < c + width; i += 8) {
        for (int64_t r = r0; r < r1; r += 8) {
          TransposeSquare(
              src + r * stride + i, stride, std::min<int64_t>(8, r1 - r),
              std::min<int64_t>(8, c1 - i), dst + i * rows + r, rows);
        }
      }
    }
  }
  hwy::FlushStream();
}

template <class T>
HWY_INLINE bool FiniteTyped(const T* x, int64_t n) {
  // x - x is 0, or NaN where x is not finite.
  VF bad = Zero();
  ForLanes(n, [&](int64_t i, auto lanes) HWY_ATTR {
    const VF v = LoadF(x + i, lanes);
    bad = hn::Add(bad, hn::Sub(v, v));
  });
  return Sum(bad) == 0.0f;
}
bool FiniteFloat(const float* x, int64_t n) { return FiniteTyped(x, n); }
bool FiniteBf16(const BFloat16* x, int64_t n) { return FiniteTyped(x, n); }

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(CastToBf16);
HWY_EXPORT(CastToFloat);
HWY_EXPORT(AddFloat);
HWY_EXPORT(AddBf16);
HWY_EXPORT(AddFloatToBf16);
HWY_EXPORT(AddBf16ToBf16);
HWY_EXPORT(AddProductRange);
HWY_EXPORT(ScaleRange);
HWY_EXPORT(FiniteFloat);
HWY_EXPORT(FiniteBf16);
HWY_EXPORT(TransposeColumns);

constexpr int64_t kChunk = 16384;  // Elements of a task.
constexpr int64_t kSquare = 32;    // Side of a transposed block: 2 x 4 KB.

int64_t Chunks(int64_t n) { return (n + kChunk - 1) / kChunk; }

template <class Body>
void ForChunks(int64_t n, const Body& body) {
  ParallelRanges(Chunks(n), [&](int64_t begin, int64_t end, int) {
    const int64_t first = begin * kChunk;
    body(first, std::min(n, end * kChunk) - first);
  });
}

bool IsFinite(const void* x, DType type, int64_t i, int64_t n) {
  if (type == DType::kF32) {
    return HWY_DYNAMIC_DISPATCH(FiniteFloat)(static_cast<const float*>(x) + i,
                                             n);
  }
  return HWY_DYNAMIC_DISPATCH(FiniteBf16)(static_cast<const BFloat16*>(x) + i,
                                          n);
}

// In the calling thread.
void AddSome(float* dst, const void* src, DType type, int64_t n) {
  if (type == DType::kF32) {
    HWY_DYNAMIC_DISPATCH(AddFloat)(dst, static_cast<const float*>(src), n);
  } else {
    HWY_DYNAMIC_DISPATCH(AddBf16)(dst, static_cast<const BFloat16*>(src), n);
  }
}

}  // namespace

void Cast(const void* src, DType src_type, void* dst, DType dst_type,
          int64_t n) {
  const auto is_float = [](DType type) {
    return type == DType::kF32 || type == DType::kBF16;
  };
  CARRY_CHECK(is_float(src_type) && is_float(dst_type));
  ForChunks(n, [&](int64_t i, int64_t size) {
    if (src_type == dst_type) {
      const int64_t width = SizeOf(src_type);
      std::memcpy(static_cast<char*>(dst) + i * width,
                  static_cast<const char*>(src) + i * width, size * width);
    } else if (src_type == DType::kF32) {
      HWY_DYNAMIC_DISPATCH(CastToBf16)
      (static_cast<const float*>(src) + i, static_cast<BFloat16*>(dst) + i,
       size, n);
    } else {
      HWY_DYNAMIC_DISPATCH(CastToFloat)
      (static_cast<const BFloat16*>(src) + i, static_cast<float*>(dst) + i,
       size, n);
    }
  });
}

void AddTo(float* dst, const void* src, DType type, int64_t n) {
  CARRY_CHECK(type == DType::kF32 || type == DType::kBF16);
  ForChunks(n, [&](int64_t i, int64_t size) {
    AddSome(dst + i, static_cast<const char*>(src) + i * SizeOf(type), type,
            size);
  });
}

void AddMatrix(MatView dst, ConstMatView src) {
  CARRY_CHECK(dst.rows == src.rows && dst.cols == src.cols);
  CARRY_CHECK(dst.dtype == DType::kF32 || dst.dtype == DType::kBF16);
  const int64_t rows =
      std::max<int64_t>(1, kChunk / std::max<int64_t>(1, dst.cols));
  ParallelFor((dst.rows + rows - 1) / rows, [&](int64_t task) {
    const int64_t end = std::min(dst.rows, (task + 1) * rows);
    for (int64_t r = task * rows; r < end; ++r) {
      const void* from = static_cast<const char*>(src.data) +
                         r * src.stride * SizeOf(src.dtype);
      if (dst.dtype == DType::kF32) {
        float* to = static_cast<float*>(dst.data) + r * dst.stride;
        AddSome(to, from, src.dtype, dst.cols);
        continue;
      }
      auto* to = static_cast<BFloat16*>(dst.data) + r * dst.stride;
      if (src.dtype == DType::kF32) {
        HWY_DYNAMIC_DISPATCH(AddFloatToBf16)
        (to, static_cast<const float*>(from), dst.cols);
      } else {
        HWY_DYNAMIC_DISPATCH(AddBf16ToBf16)
        (to, static_cast<const BFloat16*>(from), dst.cols);
      }
    }
  });
}

void NegativeExp(const float* x, float* y, int64_t n) {
  ForChunks(n, [&](int64_t first, int64_t size) {
    for (int64_t i = first; i < first + size; ++i) {
      // In double: the nearest float, and the same on every machine.
      y[i] = static_cast<float>(-std::exp(static_cast<double>(x[i])));
    }
  });
}

void AddProduct(float* dst, const float* a, const float* b, int64_t n) {
  ForChunks(n, [&](int64_t i, int64_t size) {
    HWY_DYNAMIC_DISPATCH(AddProductRange)(dst + i, a + i, b + i, size);
  });
}

void AddColumnSums(ConstMatView x, float* sums) {
  CARRY_CHECK(x.dtype == DType::kF32 || x.dtype == DType::kBF16);
  constexpr int64_t kWidth = 256;  // Columns of a task: 1 KB of sums in L1.
  ParallelFor((x.cols + kWidth - 1) / kWidth, [&](int64_t task) {
    const int64_t first = task * kWidth;
    const int64_t width = std::min(kWidth, x.cols - first);
    for (int64_t r = 0; r < x.rows; ++r) {
      const int64_t at = (r * x.stride + first) * SizeOf(x.dtype);
      AddSome(sums + first, static_cast<const char*>(x.data) + at, x.dtype,
              width);
    }
  });
}

void Scale(float* x, float factor, int64_t n) {
  ForChunks(n, [&](int64_t i, int64_t size) {
    HWY_DYNAMIC_DISPATCH(ScaleRange)(x + i, factor, size);
  });
}

int64_t FirstNonFinite(const void* x, DType type, int64_t n) {
  CARRY_CHECK(type == DType::kF32 || type == DType::kBF16);
  std::atomic<int64_t> first = Chunks(n);
  ParallelFor(Chunks(n), [&](int64_t chunk) {
    const int64_t i = chunk * kChunk;
    if (IsFinite(x, type, i, std::min(kChunk, n - i))) return;
    int64_t seen = first.load();
    while (chunk < seen && !first.compare_exchange_weak(seen, chunk)) {
    }
  });
  const int64_t begin = first.load() * kChunk;
  for (int64_t i = begin; i < n; ++i) {
    if (!IsFinite(x, type, i, 1)) return i;
  }
  return -1;
}

void Transpose(const float* src, int64_t rows, int64_t cols, float* dst) {
  ParallelFor((rows + kSquare - 1) / kSquare, [&](int64_t block) {
    const int64_t r0 = block * kSquare;
    const int64_t r1 = std::min(rows, r0 + kSquare);
    for (int64_t c0 = 0; c0 < cols; c0 += kSquare) {
      const int64_t c1 = std::min(cols, c0 + kSquare);
      for (int64_t c = c0; c < c1; ++c) {
        for (int64_t r = r0; r < r1; ++r) dst[c * rows + r] = src[r * cols + c];
      }
    }
  });
}

void TransposeBf16(ConstMatView x, BFloat16* dst) {
  CARRY_CHECK(x.dtype == DType::kBF16);
  constexpr int64_t kColumns = 64;  // Of a task: two cache lines of each row.
  const int64_t tasks = (x.cols + kColumns - 1) / kColumns;
  // What stays in the caches until it is read is not sent past them.
  constexpr int64_t kMany = 2 << 20;
  const bool stream = x.rows * x.cols >= kMany && x.rows % 32 == 0 &&
                      reinterpret_cast<uintptr_t>(dst) % 64 == 0;
  ParallelRanges(tasks, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      HWY_DYNAMIC_DISPATCH(TransposeColumns)
      (static_cast<const uint16_t*>(x.data), x.stride, x.rows, i * kColumns,
       std::min(x.cols, (i + 1) * kColumns), stream,
       reinterpret_cast<uint16_t*>(dst));
    }
  });
}

}  // namespace carry
#endif  // HWY_ONCE
