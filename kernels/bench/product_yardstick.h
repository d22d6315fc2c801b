// The best that oneDNN itself does for a matrix product of one shape.
#pragma once

#include <memory>

#include "kernels/types.h"

namespace carry {

enum class ProductLayout {
  kOwnChoice,  // The library's, with nothing to reorder.
  kGradient,   // A [k, m] and B [k, n] by rows, C += A^T B: what a weight
               // gradient has.
};

// C [m, n] = A [m, k] B [k, n] on memory that only it sees.
class ProductYardstick {
 public:
  ProductYardstick(int64_t m, int64_t n, int64_t k, DType in, DType out,
                   ProductLayout layout = ProductLayout::kOwnChoice);
  ~ProductYardstick();
  ProductYardstick(const ProductYardstick&) = delete;
  ProductYardstick& operator=(const ProductYardstick&) = delete;

  // One sample of some 30 ms, GFLOP/s.
  double Gflops();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace carry
