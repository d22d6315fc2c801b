// The embedding on a GPU: the contract of kernels/embedding.h on device
// pointers. Backward has a block for each row of the table, which looks through
// all tokens: V R / 128 steps of a warp, and no atomics.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/embedding.h"

namespace carry::cuda {

LaunchStatus EmbeddingForward(const int32_t* tokens, int64_t rows,
                              const float* table, int64_t dim, float* out,
                              Stream stream);
LaunchStatus EmbeddingBackward(const int32_t* tokens, int64_t rows,
                               const float* dout, int64_t vocab, int64_t dim,
                               float* dtable, Stream stream);

}  // namespace carry::cuda
