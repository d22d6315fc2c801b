// Weight gradients in AMX tiles: C [N, K] = dy^T x or C += dy^T x, dy [M, N]
// and x [M, K] in bf16, C in fp32.
#pragma once

#include "kernels/matmul.h"

namespace carry {

// Whether this CPU multiplies tiles and the instruction set in use packs them.
bool HasTileGradient();

// REQUIRES: HasTileGradient(), a = dy transposed, b = x, no bias. An element's
// sum does not depend on the number of threads.
void TileGradient(const MatMulArgs& args);

}  // namespace carry
