// Operands of a weight gradient into AMX tiles.
#pragma once

#include <cstdint>

namespace carry {

// Up to 32 tokens of up to 32 columns of bf16, rows `stride` bytes apart, and
// the tiles that they fill, with zeros where there is nothing: two, or one if
// there are no more than 16 columns.
struct TilePiece {
  const char* from = nullptr;
  int64_t stride = 0;
  int64_t tokens = 0, columns = 0;
  char* tiles[2] = {};
};

// Null where the instruction set in use has none.
struct TilePackers {
  // Rows of tiles are columns. Of two tiles one has the even columns, the other
  // the odd ones, since the two halves of a word go different ways.
  void (*a)(const TilePiece& piece) = nullptr;
  // Rows of tiles are pairs of tokens; columns are in order.
  void (*b)(const TilePiece& piece) = nullptr;
};
TilePackers GetTilePackers();

}  // namespace carry
