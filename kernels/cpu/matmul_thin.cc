#include "kernels/cpu/matmul_thin.h"

#include <algorithm>

#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/matmul_gradient_amx.h"
#include "kernels/cpu/pack_weight.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/matmul_thin.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// Rows and columns of y that are in registers together, and rows that share
// two columns of W's tiles while these are in L1.
constexpr int64_t kThinSide = 32, kThinRows = 64;

// Two tiles side by side, [2][16][16], to y from (row, col). Past the caches it
// takes 1.3 times as long.
template <class T>
void WriteTiles(const float* c, int64_t row, int64_t rows, int64_t col,
                const MatView& y, Write write, const float* bias) {
  const int64_t width = std::min(kThinSide, y.cols - col);
  for (int64_t r = 0; r < rows; ++r) {
    T* to = static_cast<T*>(y.data) + (row + r) * y.stride + col;
    const float* from = c + r * kTileRows;
    ForLanes(width, [&](int64_t i, auto lanes) HWY_ATTR {
      VF v = LoadF(from + i / kTileRows * kTileFloats + i % kTileRows);
      if (bias != nullptr) v = hn::Add(v, LoadF(bias + col + i, lanes));
      if (write == Write::kAccumulate) v = hn::Add(v, LoadF(to + i, lanes));
      StoreF(v, to + i, lanes);
    });
  }
}

// Up to kThinSide rows of x as tiles read them: where they lie, or a copy where
// the last tile has fewer than 16, since what is behind them is not ours.
class ThinInput {
 public:
  void Take(const ConstMatView& x, int64_t row, int64_t rows) {
    const auto* from = static_cast<const BFloat16*>(x.data) + row * x.stride;
    rows_ = from;
    stride_ = x.stride;
    if (rows % kTileRows == 0) return;
    for (int64_t i = 0; i < rows; ++i) {
      std::copy_n(from + i * x.stride, x.cols, copy_ + i * x.cols);
    }
    rows_ = copy_;
    stride_ = x.cols;
  }
  void Give(RowProduct* product) const {
    product->a = reinterpret_cast<const char*>(rows_);
    product->a_stride = stride_ * SizeOf(DType::kBF16);
  }

 private:
  const BFloat16* rows_ = nullptr;
  int64_t stride_ = 0;
  alignas(64) BFloat16 copy_[kThinSide * kMaxThinDepth] = {};
};

// Rows [begin, end) of y.
template <class T>
void ThinRowsOf(const ConstMatView& x, const char* tiles, const MatView& y,
                Write write, const float* bias, int64_t begin, int64_t end) {
  alignas(64) float c[4 * kTileFloats];
  RowProduct product;
  product.depth = x.cols;
  product.b_stride = TileSteps(x.cols) * kTileBytes;
  product.c = c;
  const TileScope scope(x.cols);
  ThinInput input[kThinRows / kThinSide];
  for (int64_t row = begin; row < end; row += kThinRows) {
    const int64_t parts =
        (std::min(kThinRows, end - row) + kThinSide - 1) / kThinSide;
    const auto rows_of = [&](int64_t part) {
      return std::min(kThinSide, end - row - part * kThinSide);
    };
    for (int64_t part = 0; part < parts; ++part) {
      input[part].Take(x, row + part * kThinSide, rows_of(part));
    }
    for (int64_t col = 0; col < y.cols; col += kThinSide) {
      product.b = tiles + col / kTileRows * product.b_stride;
      const int64_t b_tiles = y.cols - col > kTileRows ? 2 : 1;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = row + part * kThinSide, rows = rows_of(part);
        const int64_t a_tiles = rows > kTileRows ? 2 : 1;
        input[part].Give(&product);
        MultiplyRows(a_tiles, b_tiles, product);
        for (int64_t i = 0; i < a_tiles; ++i) {
          WriteTiles<T>(c + i * b_tiles * kTileFloats, first + i * kTileRows,
                        std::min(kTileRows, rows - i * kTileRows), col, y,
                        write, bias);
        }
      }
    }
  }
}

void ThinRows(const ConstMatView& x, const char* tiles, const MatView& y,
              Write write, const float* bias, int64_t begin, int64_t end) {
  const auto rows =
      y.dtype == DType::kF32 ? ThinRowsOf<float> : ThinRowsOf<BFloat16>;
  rows(x, tiles, y, write, bias, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(ThinRows);

TileLayout ThinLayout(int64_t k) {
  constexpr int64_t kTile = kTileBytes / SizeOf(DType::kBF16);
  TileLayout layout;
  layout.dtype = DType::kBF16;
  layout.pair = 2;
  layout.rows = kTileTokens;
  layout.columns = kTileRows;
  layout.row_stride = kTile;
  layout.column_stride = TileSteps(k) * kTile;
  return layout;
}

}  // namespace

bool TakesThinProduct(int64_t n, int64_t k) {
  constexpr int64_t kWide = 256;
  return k % 2 == 0 && k <= kMaxThinDepth && n >= kWide && HasTileGradient();
}

int64_t ThinWeightBytes(int64_t n, int64_t k) {
  return (n + kTileRows - 1) / kTileRows * TileSteps(k) * kTileBytes;
}

void PackThinWeight(ConstMatView w, bool transpose, void* tiles) {
  PackTiles(w, transpose, ThinLayout(transpose ? w.cols : w.rows),
            /*stream=*/false, tiles);
}

void ThinProduct(ConstMatView x, const void* tiles, MatView y, Write write,
                 const float* bias) {
  constexpr int64_t kBlock = 64;
  ParallelRanges((y.rows + kBlock - 1) / kBlock,
                 [&](int64_t begin, int64_t end, int) {
                   HWY_DYNAMIC_DISPATCH(ThinRows)
                   (x, static_cast<const char*>(tiles), y, write, bias,
                    begin * kBlock, std::min(y.rows, end * kBlock));
                 });
}

}  // namespace carry
#endif  // HWY_ONCE
