// Residual sum and RMSNorm, kernels/rms_norm.h.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

struct RmsNormOut {
  Var sum;     // fp32 [..., D]: residual + delta
  Var normed;  // `dtype` [..., D]
};
// residual fp32; delta may be undefined (sum is then residual itself).
RmsNormOut RmsNorm(Tape& tape, const Var& residual, const Var& delta,
                   Parameter& weight, float eps, DType dtype);

}  // namespace carry
