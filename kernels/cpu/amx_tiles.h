// Products of bf16 tiles in AMX registers.
//
// A tile holds 16 rows of 64 bytes. With a [16 n][16 pairs of tokens] and b
// [16 pairs of tokens][16 k], each pair a 32-bit word, one step adds
// sum_t a[t][n] b[t][k] over 32 tokens to c [16 n][16 k] in fp32.
#pragma once

#include <cstdint>

namespace carry {

constexpr int64_t kTileBytes = 1024;
constexpr int64_t kTileRows = 16, kTileTokens = 32;
constexpr int64_t kTileFloats = kTileRows * 16;  // of c

// Steps for so many tokens, or so many k of MultiplyRows.
inline int64_t TileSteps(int64_t depth) {
  return (depth + kTileTokens - 1) / kTileTokens;
}

// Whether the CPU multiplies bf16 tiles and the kernel lets this process do so.
bool HasAmxBf16();

// The calling thread's tile registers for the time of a scope. Nobody else in
// the thread may use them meanwhile.
class TileScope {
 public:
  // `depth`: K of the MultiplyRows to come, where it is not a multiple of 32.
  explicit TileScope(int64_t depth = 0);
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

// c[i][j] += sum over steps a[step][i] b[step][j], 2 x 3, 3 x 2 or fewer tiles.
struct TileProduct {
  static constexpr int64_t kMost = 3;

  // Tiles of a step lie next to each other.
  const char* a = nullptr;
  const char* b = nullptr;
  int64_t a_stride = 0, b_stride = 0;  // bytes from step to step
  int64_t steps = 0;
  bool clear = false;  // c is overwritten instead
  float* c[kMost][kMost] = {};
  int64_t stride[kMost][kMost] = {};  // bytes between rows of c

  // Meanwhile, one row a step, `lines` lines of each of 16 rows from each of
  // fetch[0] to fetch[fetches - 1] come into L2: the next product's c.
  int64_t fetches = 0, lines = 0;
  const char* fetch[kMost] = {};
  int64_t fetch_stride[kMost] = {};
};
void MultiplyTiles(int64_t rows, int64_t columns, const TileProduct& product);

// c = a b for up to 2 x 2 tiles of c: a [16 a_tiles][K] bf16 as it lies in
// memory, K even, of which nothing beyond K is read; b in tiles [16 pairs of
// k][16 n], those of 16 columns one behind the other.
struct RowProduct {
  int64_t depth = 0;  // K, as the scope was told
  const char* a = nullptr;
  int64_t a_stride = 0;  // bytes between rows
  const char* b = nullptr;
  int64_t b_stride = 0;  // bytes between columns of tiles
  float* c = nullptr;    // [a_tiles][b_tiles][16][16]
};
void MultiplyRows(int64_t a_tiles, int64_t b_tiles, const RowProduct& product);

}  // namespace carry
