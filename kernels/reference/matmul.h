// Matrix products in double. Shapes as in kernels/matmul.h.
#pragma once

#include <cstdint>
#include <vector>

namespace carry::reference {

// op(A) [M, K] op(B) [K, N]; a and b are stored row-major as given, that is
// [K, M] and [N, K] where transposed.
std::vector<double> MatMul(const std::vector<double>& a, bool transpose_a,
                           const std::vector<double>& b, bool transpose_b,
                           int64_t m, int64_t n, int64_t k);

}  // namespace carry::reference
