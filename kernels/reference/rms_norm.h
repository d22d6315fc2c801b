// Residual sum and RMSNorm in double. Equations as in kernels/rms_norm.h; an
// empty vector is a null pointer.
#pragma once

#include <cstdint>
#include <vector>

namespace carry::reference {

struct NormInputs {
  int64_t rows, dim;
  std::vector<double> residual, delta;  // [R, D]
  std::vector<double> weight;           // [D]
  double eps;
};

struct NormOutputs {
  std::vector<double> sum, y;   // [R, D]
  std::vector<double> inv_rms;  // [R]
};
NormOutputs NormForward(const NormInputs& in);

struct NormGradients {
  std::vector<double> sum;     // [R, D]: of residual and of delta
  std::vector<double> weight;  // [D]
};
// Of sum(dy * y) + sum(dsum * sum). dsum may be empty.
NormGradients NormBackward(const NormInputs& in, const std::vector<double>& dy,
                           const std::vector<double>& dsum);

}  // namespace carry::reference
