// Weights into the blocked layouts that the product library likes.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace carry {

// B [K, N] in tiles of `rows` x `columns`, each contiguous. Element (k, n) of a
// tile is at (k / pair * columns + n) * pair + k % pair: oneDNN's
// "BA16a64b" (fp32: rows 16, pair 1) and "BA16a64b2a" (bf16: rows 32, pair 2).
struct TileLayout {
  DType dtype = DType::kF32;
  int64_t rows = 0, columns = 0, pair = 1;
  int64_t row_stride = 0, column_stride = 0;  // elements from tile to tile
};

// out = op(w) rounded to the layout's type; zeros fill the tiles at the edges.
// w is W [K, N], or W [N, K] if `transpose`, in fp32 or in the layout's type.
// Supported are 16 words of 4 bytes down a tile: rows == 16 pair. `stream`:
// past the caches where `out` is aligned; else what is packed had better fit
// them.
bool CanPackTiles(const TileLayout& layout);
void PackTiles(const ConstMatView& w, bool transpose, const TileLayout& layout,
               bool stream, void* out);
// Whether a packed matrix of so many bytes had better go past the caches.
constexpr bool ShouldStreamTiles(int64_t bytes) { return bytes >= 4 << 20; }

}  // namespace carry
