// Rows of a table, and the sum of gradients back into them.
//
//   out_rd = table[token_r, d]        table fp32 [V, D], out fp32 [R, D]
//   dtable[token_r, d] += dout_rd     in order of r: the same bits every time
//
// REQUIRES 0 <= token_r < V; readers of data check it.
#pragma once

#include "kernels/types.h"

namespace carry {

void EmbeddingForward(const int32_t* tokens, int64_t rows, const float* table,
                      int64_t dim, float* out);
void EmbeddingBackward(const int32_t* tokens, int64_t rows, const float* dout,
                       int64_t vocab, int64_t dim, float* dtable);

}  // namespace carry
