#include "kernels/cpu/matmul_gradient.h"

#include <algorithm>

#include "kernels/cpu/matmul_gradient_amx.h"
#include "kernels/cpu/pages.h"
#include "kernels/cpu/parts.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

// The library goes through all rows for each tile of C, so that a deep product
// reads its operands from memory again and again: at 2,048 rows in bf16 it
// takes 1.5 times as long as in chunks of 512. What is added to C more often
// for that is little next to it.
constexpr int64_t kChunkRows = 512;
// A C with fewer columns is too thin for the library's tiles to be worth a
// repacked copy; one with fewer rows is not worth chunks.
constexpr int64_t kThin = 64, kLong = 256;

int64_t Chunks(const MatMulArgs& args) {
  return std::max<int64_t>(1, (args.a.rows + kChunkRows / 2) / kChunkRows);
}

bool TakesTiles(const MatMulArgs& args) {
  return args.a.dtype == DType::kBF16 && HasTileGradient();
}

bool IsThin(const MatMulArgs& args) {
  return args.c.cols < kThin && args.c.rows >= kLong;
}

// c += ct^T, or c = ct^T, 16 rows of c at a time: a line of each row of ct.
void WriteTransposed(const MatView& ct, Write write, const MatView& c) {
  constexpr int64_t kRows = 16;
  ParallelFor((c.rows + kRows - 1) / kRows, [&](int64_t block) {
    const int64_t begin = block * kRows;
    const int64_t rows = std::min(kRows, c.rows - begin);
    float lines[kRows][kThin];
    for (int64_t j = 0; j < c.cols; ++j) {
      const float* from = static_cast<float*>(ct.data) + j * ct.stride + begin;
      for (int64_t i = 0; i < rows; ++i) lines[i][j] = from[i];
    }
    for (int64_t i = 0; i < rows; ++i) {
      float* to = static_cast<float*>(c.data) + (begin + i) * c.stride;
      if (write == Write::kOverwrite) std::fill_n(to, c.cols, 0.0f);
      for (int64_t j = 0; j < c.cols; ++j) to[j] += lines[i][j];
    }
  });
}

}  // namespace

bool TakesGradient(const MatMulArgs& args) {
  if (!args.transpose_a || args.transpose_b || args.bias != nullptr ||
      args.c.dtype != DType::kF32) {
    return false;
  }
  if (TakesTiles(args)) return true;
  if (args.a.rows < kLong) return false;
  return IsThin(args) ||
         (Chunks(args) > 1 && args.c.rows >= kThin && args.c.cols >= kLong);
}

void MultiplyGradient(const MatMulArgs& args) {
  if (TakesTiles(args)) return TileGradient(args);
  thread_local Pages copy;
  const bool thin = IsThin(args);
  MatMulArgs part = args;
  if (thin) {
    const int64_t bytes = args.c.rows * args.c.cols * SizeOf(DType::kF32);
    if (copy.bytes() < bytes) copy = Pages(bytes);
    part.c = {copy.data(), DType::kF32, args.c.cols, args.c.rows, args.c.rows};
    part.write = Write::kOverwrite;
  }
  // Even ones, in whole tiles: of a few rows the library makes a slow product.
  constexpr int64_t kTile = 32;
  const int64_t tiles = (args.a.rows + kTile - 1) / kTile;
  const int64_t step = (tiles + Chunks(args) - 1) / Chunks(args) * kTile;
  for (int64_t begin = 0; begin < args.a.rows; begin += step) {
    const int64_t end = std::min(args.a.rows, begin + step);
    part.a = RowsOf(thin ? args.b : args.a, begin, end);
    part.b = RowsOf(thin ? args.a : args.b, begin, end);
    MatMul(part);
    part.write = Write::kAccumulate;
  }
  if (thin) WriteTransposed(part.c, args.write, args.c);
}

}  // namespace carry
