#include "kernels/cuda/cross_entropy.h"

#include "kernels/reference/cross_entropy.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/cross_entropy_cases.h"

namespace carry {
namespace {

using loss_cases::Case;
using loss_cases::GradientView;
using loss_cases::kCases;
using loss_cases::Problem;
using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectClose;
using testing::Matrix;
using testing::WithRounding;

class CudaCrossEntropyTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaCrossEntropyTest, IsTheOracles) {
  const Case& c = GetParam();
  const Problem problem(c);
  testing::ForEachOrder([&] {
    Matrix x(problem.logits, c.rows, c.vocab, DType::kF32, c.margin);
    Matrix dx(c.rows, c.vocab, c.gradient, c.margin);
    std::vector<float> nll(c.rows, NAN), alone(c.rows, NAN);
    {
      DeviceMemory mem;
      const MatView x_at = mem.InOut(x.view());
      const int32_t* targets_at = mem.In(problem.targets);
      EXPECT_TRUE(cuda::CrossEntropy(x_at, targets_at, Problem::kWeight,
                                     MatView(), mem.InOut(&alone), nullptr)
                      .ok());
      const MatView to = GradientView(c, x_at, mem.InOut(dx.view()));
      EXPECT_TRUE(cuda::CrossEntropy(x_at, targets_at, Problem::kWeight, to,
                                     mem.InOut(&nll), nullptr)
                      .ok());
      mem.Finish();
    }
    ExpectClose("nll", nll, problem.nll, 2e-6);
    EXPECT_EQ(alone, nll);
    const MatView to = GradientView(c, x.view(), dx.view());
    if (!c.in_place) {
      EXPECT_EQ(x.values(), problem.logits);
    }
    ExpectClose("gradient", testing::Values(to), problem.gradient,
                WithRounding(2e-6, c.gradient));
    EXPECT_TRUE(x.MarginsUntouched());
    EXPECT_TRUE(dx.MarginsUntouched());
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CudaCrossEntropyTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(CudaCrossEntropy, NanComesThrough) {
  for (int64_t place : {0, 20, 39}) {
    std::vector<float> x(40, 1.0f), nll(1);
    x[place] = NAN;
    const std::vector<int32_t> target = {3};
    DeviceMemory mem;
    const MatView view = {mem.InOut(&x), DType::kF32, 1, 40, 40};
    EXPECT_TRUE(cuda::CrossEntropy(view, mem.In(target), 1.0f, view,
                                   mem.InOut(&nll), nullptr)
                    .ok());
    mem.Finish();
    EXPECT_TRUE(std::isnan(nll[0])) << place;
  }
}

}  // namespace
}  // namespace carry
