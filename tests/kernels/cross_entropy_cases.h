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

// A case's inputs and what is to come of them.
struct Problem {
  explicit Problem(const Case& c) : targets(c.rows) {
    testing::Random random(11);
    logits = random.Vector(c.rows * c.vocab, c.low, c.high);
    for (int64_t r = 0; r < c.rows; ++r) {
      targets[r] = r % 3 == 2 ? -1 : (r * 7919) % c.vocab;
    }
    nll = reference::CrossEntropy(logits, targets, c.vocab);
    gradient =
        reference::CrossEntropyGradient(logits, targets, c.vocab, kWeight);
  }

  static constexpr float kWeight = 0.25f;
  testing::Doubles logits, nll, gradient;
  std::vector<int32_t> targets;
};

// Where the gradient goes: over the logits or into `dx`.
inline MatView GradientView(const Case& c, const MatView& logits,
                            const MatView& dx) {
  MatView to = dx;
  if (c.in_place) {
    to.data = logits.data;
    to.stride = logits.stride * 4 / SizeOf(c.gradient);
  }
  return to;
}

}  // namespace carry::loss_cases
