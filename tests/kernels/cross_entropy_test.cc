#include "kernels/cross_entropy.h"

#include "kernels/reference/cross_entropy.h"
#include "tests/kernels/cross_entropy_cases.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using loss_cases::Case;
using loss_cases::GradientView;
using loss_cases::kCases;
using loss_cases::kF32;
using loss_cases::Problem;
using testing::Doubles;
using testing::ExpectClose;
using testing::Matrix;
using testing::WithRounding;

class CrossEntropyTest : public ::testing::TestWithParam<Case> {};

TEST_P(CrossEntropyTest, IsTheOracles) {
  const Case& c = GetParam();
  const Problem problem(c);
  testing::ForEachTarget([&] {
    Matrix x(problem.logits, c.rows, c.vocab, DType::kF32, c.margin);
    Matrix dx(c.rows, c.vocab, c.gradient, c.margin);
    std::vector<float> nll(c.rows, NAN);
    CrossEntropy(x.view(), problem.targets.data(), Problem::kWeight, MatView(),
                 nll.data());
    ExpectClose("nll", nll, problem.nll, 2e-6);
    EXPECT_EQ(x.values(), problem.logits);
    const MatView to = GradientView(c, x.view(), dx.view());
    CrossEntropy(x.view(), problem.targets.data(), Problem::kWeight, to,
                 nll.data());
    ExpectClose("nll", nll, problem.nll, 2e-6);
    ExpectClose("gradient", testing::Values(to), problem.gradient,
                WithRounding(2e-6, c.gradient));
    EXPECT_TRUE(x.MarginsUntouched());
    EXPECT_TRUE(dx.MarginsUntouched());
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CrossEntropyTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(CrossEntropyOracle, GradientIsTheFiniteDifference) {
  testing::Random random(2);
  Doubles logits = random.Vector(3 * 5, -2, 2);
  const std::vector<int32_t> targets = {4, -1, 0};
  const auto loss = [&] {
    double sum = 0;
    for (double x : reference::CrossEntropy(logits, targets, 5)) sum += x;
    return 0.5 * sum;
  };
  testing::ExpectGradient(
      "logits", loss, &logits,
      reference::CrossEntropyGradient(logits, targets, 5, 0.5));
}

TEST(CrossEntropy, NanComesThrough) {
  testing::ForEachTarget([] {
    for (int64_t place : {0, 20, 39}) {
      std::vector<float> x(40, 1.0f);
      x[place] = NAN;
      const int32_t target = 3;
      float nll = 0;
      const MatView view = {x.data(), DType::kF32, 1, 40, 40};
      CrossEntropy(view, &target, 1.0f, view, &nll);
      EXPECT_TRUE(std::isnan(nll)) << place;
    }
  });
}

}  // namespace
}  // namespace carry
