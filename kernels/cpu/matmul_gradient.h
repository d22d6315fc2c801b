// Weight gradients, C = A^T B or C += A^T B.
#pragma once

#include "kernels/matmul.h"

namespace carry {

// Whether MultiplyGradient is the faster way to this product.
bool TakesGradient(const MatMulArgs& args);

// In bf16 TileGradient where the CPU has AMX. Elsewhere MatMul in chunks of
// rows, whose repacked copies stay in the L2 cache. Where C has few columns it
// multiplies the other way round, C^T = B^T A: of A, the large operand, no
// transposed copy is needed then.
void MultiplyGradient(const MatMulArgs& args);

}  // namespace carry
