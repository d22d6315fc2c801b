#include "kernels/embedding.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

// Columns that one thread adds at least: four cache lines.
constexpr int64_t kColumns = 64;

}  // namespace

void EmbeddingForward(const int32_t* tokens, int64_t rows, const float* table,
                      int64_t dim, float* out) {
  ParallelRanges(rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      std::memcpy(out + r * dim, table + tokens[r] * dim, dim * sizeof(float));
    }
  });
}

// Threads own columns, so that rows of the same token never meet.
void EmbeddingBackward(const int32_t* tokens, int64_t rows, const float* dout,
                       int64_t vocab, int64_t dim, float* dtable) {
  const int64_t blocks = (dim + kColumns - 1) / kColumns;
  ParallelRanges(blocks, [&](int64_t begin, int64_t end, int) {
    const int64_t c0 = begin * kColumns;
    const int64_t c1 = std::min(dim, end * kColumns);
    for (int64_t r = 0; r < rows; ++r) {
      CARRY_CHECK(tokens[r] >= 0 && tokens[r] < vocab);
      float* to = dtable + tokens[r] * dim;
      const float* from = dout + r * dim;
      for (int64_t c = c0; c < c1; ++c) to[c] += from[c];
    }
  });
}

}  // namespace carry
