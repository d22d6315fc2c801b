// The embedding on a GPU: the contract of kernels/embedding.h on device
// pointers. REQUIRES R < 2^31 and every token in [0, vocab).
//
// Backward sorts the rows by token, stably, eight bits of the token at a time,
// and gives every row of the table a block that adds its run of them in order:
// the bits of the CPU's sum, without atomics, for R log V + V + R D steps.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/embedding.h"

namespace carry::cuda {

LaunchStatus EmbeddingForward(const int32_t* tokens, int64_t rows,
                              const float* table, int64_t dim, float* out,
                              Stream stream);

// Elements of the workspace, which need not be initialised.
int64_t EmbeddingBackwardWorkspace(int64_t rows, int64_t vocab);
LaunchStatus EmbeddingBackward(const int32_t* tokens, int64_t rows,
                               const float* dout, int64_t vocab, int64_t dim,
                               float* dtable, int32_t* workspace,
                               Stream stream);

}  // namespace carry::cuda
