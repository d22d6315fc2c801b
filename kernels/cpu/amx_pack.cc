#include "kernels/cpu/amx_pack.h"

#include "kernels/cpu/amx_tiles.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/amx_pack.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {
namespace {

#if HWY_TARGET <= HWY_AVX3 && HWY_ARCH_X86_64

// Rows of 32 tokens; zeros where a piece has none.
template <bool kWhole>
HWY_INLINE __m512i LoadRow(const TilePiece& p, const char* from, int64_t stride,
                           int64_t token) {
  const char* at = from + token * stride;
  if (kWhole) return _mm512_loadu_si512(at);
  if (token >= p.tokens) return _mm512_setzero_si512();
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << p.columns) - 1);
  return _mm512_maskz_loadu_epi16(mask, at);
}

// The pairs of two tokens' first 16 columns.
HWY_INLINE __m512i PairHalf(__m512i first, __m512i second) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(first));
  const __m512i high = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(second));
  return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

HWY_INLINE void StoreTransposed(__m512 (&rows)[16], char* HWY_RESTRICT tile) {
  Transpose16(rows);
  for (int64_t i = 0; i < kTileRows; ++i) {
    _mm512_store_ps(tile + i * 64, rows[i]);
  }
}

template <bool kWhole>
void PackAOf(const TilePiece& p) {
  constexpr __mmask32 kHigh = 0xaaaaaaaa;
  const char* from = p.from;
  const int64_t stride = p.stride;
  char* tile0 = p.tiles[0];
  char* tile1 = p.tiles[1];
  __m512 rows[16];
  if (!kWhole && p.columns <= 16) {
    for (int64_t i = 0; i < 16; ++i) {
      rows[i] = _mm512_castsi512_ps(
          PairHalf(LoadRow<kWhole>(p, from, stride, 2 * i),
                   LoadRow<kWhole>(p, from, stride, 2 * i + 1)));
    }
    return StoreTransposed(rows, tile0);
  }
  HWY_UNROLL(16)
  for (int64_t i = 0; i < 16; ++i) {
    const __m512i first = LoadRow<kWhole>(p, from, stride, 2 * i);
    const __m512i second = LoadRow<kWhole>(p, from, stride, 2 * i + 1);
    rows[i] = _mm512_castsi512_ps(
        _mm512_mask_blend_epi16(kHigh, first, _mm512_slli_epi32(second, 16)));
  }
  StoreTransposed(rows, tile0);
  HWY_UNROLL(16)
  for (int64_t i = 0; i < 16; ++i) {
    const __m512i first = LoadRow<kWhole>(p, from, stride, 2 * i);
    const __m512i second = LoadRow<kWhole>(p, from, stride, 2 * i + 1);
    rows[i] = _mm512_castsi512_ps(
        _mm512_mask_blend_epi16(kHigh, _mm512_srli_epi32(first, 16), second));
  }
  StoreTransposed(rows, tile1);
}

template <bool kWhole>
void PackBOf(const TilePiece& p) {
  const char* from = p.from;
  const int64_t stride = p.stride;
  char* HWY_RESTRICT tile0 = p.tiles[0];
  char* HWY_RESTRICT tile1 = p.tiles[1];
  if (!kWhole && p.columns <= 16) {
    for (int64_t i = 0; i < 16; ++i) {
      _mm512_store_si512(tile0 + i * 64,
                         PairHalf(LoadRow<kWhole>(p, from, stride, 2 * i),
                                  LoadRow<kWhole>(p, from, stride, 2 * i + 1)));
    }
    return;
  }
  // Unpacking takes four columns of each 16 bytes' half.
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  HWY_UNROLL(16)
  for (int64_t i = 0; i < 16; ++i) {
    const __m512i first = _mm512_permutexvar_epi64(
        order, LoadRow<kWhole>(p, from, stride, 2 * i));
    const __m512i second = _mm512_permutexvar_epi64(
        order, LoadRow<kWhole>(p, from, stride, 2 * i + 1));
    _mm512_store_si512(tile0 + i * 64, _mm512_unpacklo_epi16(first, second));
    _mm512_store_si512(tile1 + i * 64, _mm512_unpackhi_epi16(first, second));
  }
}

void PackA(const TilePiece& p) {
  p.tokens == 32 && p.columns == 32 ? PackAOf<true>(p) : PackAOf<false>(p);
}
void PackB(const TilePiece& p) {
  p.tokens == 32 && p.columns == 32 ? PackBOf<true>(p) : PackBOf<false>(p);
}

TilePackers GetPackers() { return {PackA, PackB}; }

#else

TilePackers GetPackers() { return {}; }

#endif

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {

HWY_EXPORT(GetPackers);

TilePackers GetTilePackers() { return HWY_DYNAMIC_DISPATCH(GetPackers)(); }

}  // namespace carry
#endif  // HWY_ONCE
