#include "kernels/adamw.h"

#include "tests/kernels/adamw_cases.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

class AdamWTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(AdamWTest, ThreeStepsAreTheOracles) {
  testing::ForEachTarget(
      [&] { adamw_cases::ExpectThreeSteps(GetParam(), AdamW); });
}

TEST_P(AdamWTest, SumOfSquaresIsExactEnoughAndTheSameForAnyThreads) {
  const int64_t n = GetParam();
  const adamw_cases::Squares want(n);
  testing::ForEachTarget([&] {
    const double sum = SumOfSquares(want.x.data(), n);
    EXPECT_NEAR(sum, want.sum, 1e-12 * want.sum);
    for (int threads : {1, 3}) {
      const testing::WithThreads with(threads);
      EXPECT_EQ(SumOfSquares(want.x.data(), n), sum);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, AdamWTest,
                         ::testing::ValuesIn(adamw_cases::kSizes));

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
