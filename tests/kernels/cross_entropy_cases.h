// The op cases of cross-entropy, for every backend.
#pragma once

#include "kernels/cross_entropy.h"
#include "kernels/reference/cross_entropy.h"
#include "tests/kernels/case_util.h"

namespace carry::loss_cases {

struct Case {
  const char* name;
  int64_t rows, vocab;
  DType gradient;
  double low, high;
  int64_t margin = 0;
  bool in_place = false;
};

inline constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

inline const Case kCases[] = {
    {"One", 1, 1, kF32, -1, 1},
    {"Two", 2, 2, kF32, -1, 1},
    {"Odd", 7, 33, kF32, -5, 5},
    {"Bytes", 5, 256, kF32, -5, 5},
    {"Block", 3, 1024, kF32, -5, 5},
    {"Large", 4, 2500, kF32, -8, 8, 3},
    {"FarFromZero", 4, 300, kF32, 900, 1000},
    {"Steep", 4, 300, kF32, -200, 200},
    {"InPlace", 7, 1100, kF32, -5, 5, 5, true},
    {"Bf16", 5, 1100, kBF16, -5, 5, 5},
    {"Bf16InPlace", 7, 1100, kBF16, -5, 5, 5, true},
};

}  // namespace carry::loss_cases
