#include "kernels/adamw.h"

#include "kernels/reference/adamw.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;

class AdamWTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(AdamWTest, ThreeStepsAreTheOracles) {
  const int64_t n = GetParam();
  const reference::AdamWConstants base = {3e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0.5};
  testing::ForEachTarget([&] {
    testing::Random random(8);
    reference::AdamWState want;
    want.weight = random.Vector(n, -1, 1);
    want.m = want.v = Doubles(n);
    std::vector<float> weight = Floats(want.weight), m(n), v(n);
    for (int step = 1; step <= 3; ++step) {
      const Doubles grad = random.Vector(n, -1, 1);
      reference::AdamWConstants constants = base;
      constants.step = step;
      reference::AdamW(constants, grad, &want);
      const std::vector<float> g = Floats(grad);
      AdamW({n, weight.data(), g.data(), m.data(), v.data(), 3e-3f, 0.9f, 0.95f,
             1e-8f, 0.1f, static_cast<float>(1 - std::pow(0.9, step)),
             static_cast<float>(1 - std::pow(0.95, step)), 0.5f});
    }
    ExpectClose("weight", weight, want.weight, 1e-6);
    ExpectClose("m", m, want.m, 1e-6);
    ExpectClose("v", v, want.v, 2e-6);
  });
}

TEST_P(AdamWTest, SumOfSquaresIsExactEnoughAndTheSameForAnyThreads) {
  const int64_t n = GetParam();
  testing::Random random(8);
  const std::vector<float> x = Floats(random.Vector(n, -1, 1));
  double want = 0;
  for (float f : x) want += static_cast<double>(f) * f;
  testing::ForEachTarget([&] {
    const double sum = SumOfSquares(x.data(), n);
    EXPECT_NEAR(sum, want, 1e-12 * want);
    for (int threads : {1, 3}) {
      const testing::WithThreads with(threads);
      EXPECT_EQ(SumOfSquares(x.data(), n), sum);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, AdamWTest,
                         ::testing::Values(1, 15, 16, 33, 1000, 40000));

TEST(SumOfSquares, TellsWhatIsNotFinite) {
  for (int64_t place : {0, 17, 36}) {
    std::vector<float> x(37, 1.0f);
    x[place] = 3e38f;
    EXPECT_TRUE(std::isfinite(SumOfSquares(x.data(), 37)));
    x[place] = INFINITY;
    EXPECT_FALSE(std::isfinite(SumOfSquares(x.data(), 37)));
    x[place] = NAN;
    EXPECT_FALSE(std::isfinite(SumOfSquares(x.data(), 37)));
  }
}

}  // namespace
}  // namespace carry
