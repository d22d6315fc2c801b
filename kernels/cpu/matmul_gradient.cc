#include "kernels/cpu/matmul_gradient.h"

#include <algorithm>

#include "kernels/cpu/pages.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

constexpr int64_t kChunkRows = 512;
// Sides of a C. A thin one is too thin for the library's tiles to be worth a
// repacked copy; of a small one a pass costs nothing next to the product.
constexpr int64_t kThin = 64, kSmall = 256, kLong = 256;

bool IsThin(const MatMulArgs& args) {
  return args.c.cols < kThin && args.c.rows >= kLong;
}

ConstMatView Rows(const ConstMatView& v, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(v.data);
  return {data + begin * v.stride * SizeOf(v.dtype), v.dtype, end - begin,
          v.cols, v.stride};
}

// c += ct^T, 16 rows of c at a time: a line of each row of ct.
void AddTransposed(const MatView& ct, const MatView& c) {
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
      for (int64_t j = 0; j < c.cols; ++j) to[j] += lines[i][j];
    }
  });
}

}  // namespace

bool IsSmallGradient(const MatMulArgs& args) {
  if (!args.transpose_a || args.transpose_b || args.bias != nullptr ||
      args.write != Write::kAccumulate || args.c.dtype != DType::kF32 ||
      args.a.rows < kLong) {
    return false;
  }
  return IsThin(args) ||
         (args.a.dtype == DType::kBF16 && args.a.rows > kChunkRows &&
          args.c.rows >= kThin && args.c.rows < kSmall && args.c.cols >= kLong);
}

void MultiplyGradient(const MatMulArgs& args) {
  thread_local Pages copy;
  const bool thin = IsThin(args);
  MatMulArgs part = args;
  if (thin) {
    const int64_t bytes = args.c.rows * args.c.cols * SizeOf(DType::kF32);
    if (copy.bytes() < bytes) copy = Pages(bytes);
    part.c = {copy.data(), DType::kF32, args.c.cols, args.c.rows, args.c.rows};
    part.write = Write::kOverwrite;
  }
  for (int64_t begin = 0; begin < args.a.rows; begin += kChunkRows) {
    const int64_t end = std::min(args.a.rows, begin + kChunkRows);
    part.a = Rows(thin ? args.b : args.a, begin, end);
    part.b = Rows(thin ? args.a : args.b, begin, end);
    MatMul(part);
    part.write = Write::kAccumulate;
  }
  if (thin) AddTransposed(part.c, args.c);
}

}  // namespace carry
