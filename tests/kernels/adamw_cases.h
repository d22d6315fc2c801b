// The op cases of AdamW, for every backend.
#pragma once

#include <cmath>
#include <functional>

#include "kernels/adamw.h"
#include "kernels/reference/adamw.h"
#include "tests/kernels/case_util.h"

namespace carry::adamw_cases {

inline constexpr int64_t kSizes[] = {1, 15, 16, 33, 1000, 40000};

// Three steps of `adamw`, which updates host arrays, beside the oracle's.
inline void ExpectThreeSteps(
    int64_t n, const std::function<void(const AdamWArgs&)>& adamw) {
  using testing::ExpectClose;
  testing::Random random(8);
  reference::AdamWState want;
  want.weight = random.Vector(n, -1, 1);
  want.m = want.v = testing::Doubles(n);
  std::vector<float> weight = testing::Floats(want.weight), m(n), v(n);
  for (int step = 1; step <= 3; ++step) {
    const testing::Doubles grad = random.Vector(n, -1, 1);
    const reference::AdamWConstants constants = {3e-3, 0.9,  0.95, 1e-8,
                                                 0.1,  step, 0.5};
    reference::AdamW(constants, grad, &want);
    const std::vector<float> g = testing::Floats(grad);
    adamw({n, weight.data(), g.data(), m.data(), v.data(), 3e-3f, 0.9f, 0.95f,
           1e-8f, 0.1f, static_cast<float>(1 - std::pow(0.9, step)),
           static_cast<float>(1 - std::pow(0.95, step)), 0.5f});
  }
  ExpectClose("weight", weight, want.weight, 1e-6);
  ExpectClose("m", m, want.m, 1e-6);
  ExpectClose("v", v, want.v, 2e-6);
}

// Numbers and the sum of their squares.
struct Squares {
  explicit Squares(int64_t n) {
    testing::Random random(8);
    x = testing::Floats(random.Vector(n, -1, 1));
    for (float f : x) sum += static_cast<double>(f) * f;
  }
  std::vector<float> x;
  double sum = 0;
};

}  // namespace carry::adamw_cases
