// A tile is put together in L1 and written past the caches. The library's own
// reorder takes 5 to 20 times as long.

#include "kernels/cpu/pack_weight.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/pack_weight.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

constexpr int64_t kWords = 16;  // of 4 bytes, down a tile
constexpr int64_t kMaxColumns = 128;
// The next tile's lines, fetched while this one is put together.
constexpr int64_t kAhead = 32;

// 16 words of a row of W [N, K]: one column of a tile.
HWY_INLINE void LoadWords(const BFloat16* w, int64_t, uint32_t* words) {
  std::memcpy(words, w, kWords * sizeof(uint32_t));
}
HWY_INLINE void LoadWords(const float* w, int64_t pair, uint32_t* words) {
  if (pair == 1) {
    std::memcpy(words, w, kWords * sizeof(uint32_t));
    return;
  }
  auto* halves = reinterpret_cast<BFloat16*>(words);
  for (int64_t i = 0; i < 2 * kWords; i += kLanes) {
    StoreF(LoadF(w + i), halves + i);
  }
}

// A whole tile from rows n of W [N, K].
template <class T>
HWY_INLINE void TransposedTile(const T* w, int64_t stride,
                               const TileLayout& layout, uint32_t* tile) {
  HWY_ALIGN uint32_t words[kWords];
  for (int64_t n = 0; n < layout.columns; ++n) {
    const T* row = w + n * stride;
    for (int64_t i = 0; i < layout.rows; i += 16) {
      __builtin_prefetch(row + kAhead + i, 0, 3);
    }
    LoadWords(row, layout.pair, words);
    for (int64_t i = 0; i < kWords; ++i) {
      tile[i * layout.columns + n] = words[i];
    }
  }
}

HWY_INLINE hn::Vec<DU> Bf16Bits(const float* p) {
  return hn::PromoteTo(DU(), RoundToBf16(LoadF(p)));
}
HWY_INLINE hn::Vec<DU> Bf16Bits(const BFloat16* p) {
  return hn::PromoteTo(DU(),
                       hn::LoadU(D16(), reinterpret_cast<const uint16_t*>(p)));
}

// A whole tile from rows k of W [K, N].
template <class T>
HWY_INLINE void PlainTile(const T* w, int64_t stride, const TileLayout& layout,
                          uint32_t* tile) {
  for (int64_t i = 0; i < kWords; ++i) {
    uint32_t* to = tile + i * layout.columns;
    const T* row = w + i * layout.pair * stride;
    if (layout.pair == 1) {
      std::memcpy(to, row, layout.columns * sizeof(float));
      continue;
    }
    for (int64_t n = 0; n < layout.columns; n += kLanes) {
      const auto low = Bf16Bits(row + n);
      const auto high = Bf16Bits(row + stride + n);
      hn::StoreU(hn::Or(low, hn::ShiftLeft<16>(high)), DU(), to + n);
    }
  }
}

BFloat16 Narrow(float x) { return ToBFloat16(x); }
BFloat16 Narrow(BFloat16 x) { return x; }

// A tile of which only rows < k and columns < n exist; element (i, j) of op(W)
// is at w[i * by_row + j * by_column].
template <class T>
void PartialTile(const T* w, int64_t by_row, int64_t by_column, int64_t k,
                 int64_t n, const TileLayout& layout, uint32_t* tile) {
  std::fill_n(tile, kWords * layout.columns, 0);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      const T x = w[i * by_row + j * by_column];
      const int64_t at = (i / layout.pair * layout.columns + j) * layout.pair +
                         i % layout.pair;
      if (layout.pair == 1) {
        std::memcpy(tile + at, &x, sizeof(x));
      } else {
        reinterpret_cast<BFloat16*>(tile)[at] = Narrow(x);
      }
    }
  }
}

HWY_INLINE void WriteTile(const uint32_t* tile, int64_t words, bool stream,
                          void* out) {
  if (!stream) {
    std::memcpy(out, tile, words * sizeof(uint32_t));
    return;
  }
  auto* to = static_cast<uint32_t*>(out);
  for (int64_t i = 0; i < words; i += kLanes) {
    hn::Stream(hn::Load(DU(), tile + i), DU(), to + i);
  }
}

// Tiles [begin, end) in the order in which rows of W are read.
template <class T>
void PackRangeOf(const ConstMatView& w, bool transpose,
                 const TileLayout& layout, bool stream, int64_t begin,
                 int64_t end, char* out) {
  const int64_t k = transpose ? w.cols : w.rows;
  const int64_t n = transpose ? w.rows : w.cols;
  const int64_t down = (k + layout.rows - 1) / layout.rows;
  const int64_t across = (n + layout.columns - 1) / layout.columns;
  const int64_t by_row = transpose ? 1 : w.stride;
  const int64_t by_column = transpose ? w.stride : 1;
  HWY_ALIGN uint32_t tile[kWords * kMaxColumns];
  for (int64_t t = begin; t < end; ++t) {
    const int64_t ki = transpose ? t % down : t / across;
    const int64_t ni = transpose ? t / down : t % across;
    const int64_t k0 = ki * layout.rows, n0 = ni * layout.columns;
    const T* from =
        static_cast<const T*>(w.data) + k0 * by_row + n0 * by_column;
    const bool whole = k0 + layout.rows <= k && n0 + layout.columns <= n;
    if (!whole) {
      PartialTile(from, by_row, by_column, std::min(layout.rows, k - k0),
                  std::min(layout.columns, n - n0), layout, tile);
    } else if (transpose) {
      TransposedTile(from, w.stride, layout, tile);
    } else {
      PlainTile(from, w.stride, layout, tile);
    }
    WriteTile(tile, kWords * layout.columns, stream,
              out + (ki * layout.row_stride + ni * layout.column_stride) *
                        SizeOf(layout.dtype));
  }
  hwy::FlushStream();
}

void PackRange(const ConstMatView& w, bool transpose, const TileLayout& layout,
               bool stream, int64_t begin, int64_t end, char* out) {
  const auto pack =
      w.dtype == DType::kF32 ? PackRangeOf<float> : PackRangeOf<BFloat16>;
  pack(w, transpose, layout, stream, begin, end, out);
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {

HWY_EXPORT(PackRange);

bool CanPackTiles(const TileLayout& layout) {
  const int64_t pair = layout.dtype == DType::kBF16 ? 2 : 1;
  return layout.pair == pair && layout.rows == 16 * pair &&
         layout.columns > 0 && layout.columns % 16 == 0 &&
         layout.columns <= 128;
}

void PackTiles(const ConstMatView& w, bool transpose, const TileLayout& layout,
               bool stream, void* out) {
  CARRY_CHECK(CanPackTiles(layout));
  CARRY_CHECK(w.dtype == DType::kF32 || w.dtype == layout.dtype);
  const int64_t k = transpose ? w.cols : w.rows;
  const int64_t n = transpose ? w.rows : w.cols;
  const int64_t tiles = ((k + layout.rows - 1) / layout.rows) *
                        ((n + layout.columns - 1) / layout.columns);
  stream = stream && reinterpret_cast<uintptr_t>(out) % 64 == 0 &&
           layout.row_stride * SizeOf(layout.dtype) % 64 == 0 &&
           layout.column_stride * SizeOf(layout.dtype) % 64 == 0;
  ParallelRanges(tiles, [&](int64_t begin, int64_t end, int) {
    HWY_DYNAMIC_DISPATCH(PackRange)
    (w, transpose, layout, stream, begin, end, static_cast<char*>(out));
  });
}

}  // namespace carry
#endif  // HWY_ONCE
