// Neither operand comes as the tiles want it: b in pairs of tokens, a in pairs
// of tokens and transposed. Both are packed in the L2 cache, the smaller one as
// a whole, the other in blocks of columns, for so many tokens at once that C
// passes through memory once or twice. Nothing is fetched for the packing: the
// CPU's own prefetchers follow whole rows better.

#include "kernels/cpu/matmul_gradient_amx.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cpu/amx_pack.h"
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/scratch.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

// Columns that are packed at a time: two tiles.
constexpr int64_t kGroup = 32;
// A block's columns are whole groups and whole batches of 2 or 3 tiles.
constexpr int64_t kUnit = 96;
// C passes through memory once for each slice of about so many tokens.
constexpr int64_t kSliceTokens = 1024;
// A block, which is used again and again: of 2 MB of L2, at twice this products
// take 1.3 times as long.
constexpr int64_t kBlockBytes = 768 << 10;
// A small C stays in L2, so that slices can be as short as whole rows of the
// wider operand make a block of so many bytes: memory gives whole rows twice as
// fast as parts of 768 bytes.
constexpr int64_t kSmallBytes = 512 << 10, kSmallBlockBytes = 384 << 10;
constexpr int64_t kLeastTokens = 128;

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Some columns of dy or x, those of dy rows of C, and room for a slice of
// tokens in tiles: `batch` tiles for each step of 32 tokens, then the next.
struct Block {
  const char* data;
  int64_t stride;  // bytes
  int64_t columns;
  int64_t batch;  // tiles that meet those of the other in registers
  int64_t steps;
  char* packed;

  int64_t tiles() const { return DivideUp(columns, kTileRows); }
  int64_t batches() const { return DivideUp(tiles(), batch); }
  int64_t bytes() const { return batches() * batch * steps * kTileBytes; }
  int64_t TilesOf(int64_t i) const {
    return std::min(batch, tiles() - i * batch);
  }
  const char* Batch(int64_t i) const {
    return packed + i * batch * steps * kTileBytes;
  }
};

void Pack(const Block& block, int64_t tokens, void (*pack)(const TilePiece&)) {
  constexpr int64_t kGroupBytes = kGroup * SizeOf(DType::kBF16);
  const int64_t to_next = (block.steps - 1) * block.batch * kTileBytes;
  for (int64_t step = 0; step < block.steps; ++step) {
    char* to = block.packed + step * block.batch * kTileBytes;
    int64_t left = block.batch;  // tiles of this batch
    const auto next_tile = [&] {
      char* tile = to;
      to += kTileBytes;
      if (--left == 0) {
        to += to_next;
        left = block.batch;
      }
      return tile;
    };
    TilePiece piece;
    piece.from = block.data + step * kTileTokens * block.stride;
    piece.stride = block.stride;
    piece.tokens = std::min(kTileTokens, tokens - step * kTileTokens);
    for (int64_t i = 0; i < block.columns; i += kGroup) {
      piece.columns = std::min(kGroup, block.columns - i);
      piece.tiles[0] = next_tile();
      if (piece.columns > kTileRows) piece.tiles[1] = next_tile();
      pack(piece);
      piece.from += kGroupBytes;
    }
  }
}

// Rows of C that a tile of dy holds.
struct TileRange {
  int64_t first, step, count;
};
TileRange RowsOf(int64_t rows, int64_t tile) {
  const int64_t group = tile / 2 * kGroup;
  const int64_t left = rows - group;
  if (left <= kTileRows) return {group, 1, left};
  const int64_t odd = tile % 2;
  return {group + odd, 2, std::min(kTileRows, (left - odd + 1) / 2)};
}

// A tile of which only some rows and columns are in C, and a whole one in its
// place.
struct Edge {
  float* at;
  int64_t stride, rows, columns;
  float* tile;

  void Copy(bool out) const {
    for (int64_t r = 0; r < rows; ++r) {
      float* from = at + r * stride;
      float* to = tile + r * kTileRows;
      if (out) std::swap(from, to);
      std::memcpy(to, from, columns * sizeof(float));
    }
  }
};

// Adds the products of two blocks to their part of C, or writes them.
class Products {
 public:
  Products(const Block& a, const Block& b, const MatView& c, bool clear)
      : a_(a), b_(b), c_(c) {
    product_.a_stride = a.batch * kTileBytes;
    product_.b_stride = b.batch * kTileBytes;
    product_.steps = a.steps;
    product_.clear = clear;
  }

  // `down`: all batches of a for a batch of b, else the other way round.
  void Run(bool down) {
    const int64_t outer = down ? b_.batches() : a_.batches();
    const int64_t inner = down ? a_.batches() : b_.batches();
    for (int64_t i = 0; i < outer; ++i) {
      for (int64_t j = 0; j < inner; ++j) {
        const int64_t i_next = j + 1 < inner ? i : i + 1;
        const int64_t j_next = j + 1 < inner ? j + 1 : 0;
        product_.fetches = 0;
        if (i_next < outer && product_.steps >= kTileRows) {
          down ? Fetch(j_next, i_next) : Fetch(i_next, j_next);
        }
        down ? Multiply(j, i) : Multiply(i, j);
      }
    }
  }

 private:
  float* At(int64_t row, int64_t column) const {
    return static_cast<float*>(c_.data) + row * c_.stride + column;
  }

  void Fetch(int64_t a, int64_t b) {
    product_.fetches = a_.TilesOf(a);
    product_.lines = b_.TilesOf(b);
    for (int64_t i = 0; i < product_.fetches; ++i) {
      const TileRange rows = RowsOf(c_.rows, a * a_.batch + i);
      product_.fetch[i] = reinterpret_cast<const char*>(
          At(rows.first, b * b_.batch * kTileRows));
      product_.fetch_stride[i] = rows.step * c_.stride * sizeof(float);
    }
  }

  void Multiply(int64_t a, int64_t b) {
    const int64_t rows = a_.TilesOf(a), columns = b_.TilesOf(b);
    product_.a = a_.Batch(a);
    product_.b = b_.Batch(b);
    Edge edges[6];
    int count = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const TileRange range = RowsOf(c_.rows, a * a_.batch + i);
      const int64_t stride = range.step * c_.stride;
      for (int64_t j = 0; j < columns; ++j) {
        const int64_t column = (b * b_.batch + j) * kTileRows;
        const int64_t width = std::min(kTileRows, c_.cols - column);
        float* at = At(range.first, column);
        int64_t row_bytes = stride * sizeof(float);
        if (range.count < kTileRows || width < kTileRows) {
          Edge& edge = edges[count];
          edge = {at, stride, range.count, width, edge_tiles_[count]};
          if (!product_.clear) edge.Copy(/*out=*/false);
          at = edge.tile;
          row_bytes = kTileRows * sizeof(float);
          ++count;
        }
        product_.c[i][j] = at;
        product_.stride[i][j] = row_bytes;
      }
    }
    MultiplyTiles(rows, columns, product_);
    for (int i = 0; i < count; ++i) edges[i].Copy(/*out=*/true);
  }

  const Block a_, b_;
  const MatView c_;
  TileProduct product_;
  alignas(64) float edge_tiles_[6][kTileRows * kTileRows] = {};
};

// One thread's part of C over one slice of tokens.
void MultiplySlice(const ConstMatView& dy, const ConstMatView& x,
                   const MatView& c, bool clear) {
  const TilePackers packers = GetTilePackers();
  // 3 x 2 tiles of C in registers, or 2 x 3: 5 tiles to read for 6 products.
  const int64_t a_tiles = DivideUp(c.rows, kTileRows);
  const int64_t b_tiles = DivideUp(c.cols, kTileRows);
  const bool wide = b_tiles == 3 || a_tiles <= 2 || a_tiles == 4;
  const auto block_of = [&](const ConstMatView& v, int64_t batch) {
    return Block{static_cast<const char*>(v.data),
                 v.stride * SizeOf(DType::kBF16),
                 v.cols,
                 batch,
                 DivideUp(v.rows, kTileTokens),
                 nullptr};
  };
  Block a = block_of(dy, wide ? 2 : 3), b = block_of(x, wide ? 3 : 2);
  // The smaller operand is packed at once, the other in blocks.
  const bool a_whole = c.rows <= c.cols;
  Block& whole = a_whole ? a : b;
  Block& block = a_whole ? b : a;
  const int64_t all = block.columns;
  const int64_t unit_bytes =
      kUnit * block.steps * kTileTokens * SizeOf(DType::kBF16);
  const int64_t units = DivideUp(all, kUnit);
  const int64_t blocks =
      DivideUp(units, std::max<int64_t>(1, kBlockBytes / unit_bytes));
  const int64_t columns = DivideUp(units, blocks) * kUnit;
  const int64_t whole_bytes = whole.bytes();
  block.columns = std::min(columns, all);
  Scratch scratch(ScratchSlot::kWorker, (whole_bytes + block.bytes()) / 4);
  whole.packed = reinterpret_cast<char*>(scratch.Take(whole_bytes / 4));
  block.packed = reinterpret_cast<char*>(scratch.Take(block.bytes() / 4));
  Pack(whole, dy.rows, a_whole ? packers.a : packers.b);
  // C is walked through along its rows, unless `whole` would have to come into
  // L2 for each batch of the block.
  const bool down = !a_whole && whole_bytes > kBlockBytes;
  MatView part = c;
  for (int64_t at = 0; at < all; at += columns) {
    block.columns = std::min(columns, all - at);
    (a_whole ? part.cols : part.rows) = block.columns;
    Pack(block, dy.rows, a_whole ? packers.b : packers.a);
    Products(a, b, part, clear).Run(down);
    block.data += columns * SizeOf(DType::kBF16);
    part.data =
        static_cast<float*>(part.data) + columns * (a_whole ? 1 : c.stride);
  }
}

ConstMatView Part(const ConstMatView& v, int64_t row, int64_t rows,
                  int64_t column, int64_t columns) {
  const auto* data = static_cast<const BFloat16*>(v.data);
  return {data + row * v.stride + column, v.dtype, rows, columns, v.stride};
}

// Tokens of a slice, of `all`. An element adds them up in order whatever the
// slices.
int64_t SliceTokens(int64_t all, const MatView& c) {
  int64_t tokens = kSliceTokens;
  if (c.rows * c.cols * SizeOf(DType::kF32) <= kSmallBytes) {
    const int64_t row_bytes = std::max(c.rows, c.cols) * SizeOf(DType::kBF16);
    tokens =
        std::min(tokens, std::max(kLeastTokens, kSmallBlockBytes / row_bytes));
  }
  const int64_t slices = std::max<int64_t>(1, (all + tokens / 2) / tokens);
  return DivideUp(DivideUp(all, kTileTokens), slices) * kTileTokens;
}

}  // namespace

bool HasTileGradient() { return GetTilePackers().a != nullptr && HasAmxBf16(); }

void TileGradient(const MatMulArgs& args) {
  const bool by_rows = args.c.rows >= args.c.cols;
  const int64_t columns = by_rows ? args.c.rows : args.c.cols;
  ParallelRanges(DivideUp(columns, kGroup), [&](int64_t begin, int64_t end,
                                                int) {
    const int64_t first = begin * kGroup;
    const int64_t count = std::min(columns, end * kGroup) - first;
    MatView c = args.c;
    (by_rows ? c.rows : c.cols) = count;
    c.data = static_cast<float*>(c.data) + first * (by_rows ? c.stride : 1);
    const int64_t slice = SliceTokens(args.a.rows, c);
    const TileScope tiles;
    for (int64_t token = 0; token < args.a.rows; token += slice) {
      const int64_t tokens = std::min(slice, args.a.rows - token);
      MultiplySlice(Part(args.a, token, tokens, by_rows ? first : 0, c.rows),
                    Part(args.b, token, tokens, by_rows ? 0 : first, c.cols), c,
                    token == 0 && args.write == Write::kOverwrite);
    }
  });
}

}  // namespace carry
