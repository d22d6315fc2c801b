// The op cases of RMSNorm, for every backend.
#pragma once

#include "kernels/reference/rms_norm.h"
#include "kernels/rms_norm.h"
#include "tests/kernels/case_util.h"

namespace carry::norm_cases {

using reference::NormInputs;

struct Case {
  const char* name;
  int64_t rows, dim;
  DType delta, y;
  bool has_delta = true;
  bool in_place = false;  // sum over residual, dresidual over dsum
  int64_t margin = 0;
  double scale = 1;
  double tolerance = 2e-6;  // Of the gradient: 1e-7 over what cancels in it.
};

inline constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

inline const Case kCases[] = {
    {"One", 1, 1, kF32, kF32, true, false, 0, 1, 1e-2},
    {"Two", 1, 2, kF32, kF32},
    {"Short", 3, 7, kF32, kF32},
    {"Odd", 9, 33, kF32, kBF16, true, false, 3},
    {"Wide", 5, 770, kF32, kF32, true, true},
    {"NoDelta", 5, 130, kF32, kF32, false},
    {"NoDeltaInPlace", 5, 130, kBF16, kBF16, false, true},
    {"Bf16", 6, 130, kBF16, kBF16, true, true, 1},
    {"Bf16Delta", 6, 64, kBF16, kF32},
    {"Tiny", 4, 48, kF32, kF32, true, false, 0, 1e-4},
    {"Large", 4, 48, kF32, kF32, true, false, 0, 1e4},
};

inline NormInputs MakeInputs(const Case& c) {
  testing::Random random(9);
  NormInputs in;
  in.rows = c.rows, in.dim = c.dim, in.eps = 1e-5;
  const int64_t n = c.rows * c.dim;
  in.residual = random.Vector(n, -2 * c.scale, 2 * c.scale);
  if (c.has_delta) {
    in.delta = random.Vector(n, -c.scale, c.scale, c.delta);
  }
  in.weight = random.Vector(c.dim, 0.5, 2);
  return in;
}

}  // namespace carry::norm_cases
