#include "kernels/cuda/cross_entropy.h"

#include "kernels/reference/cross_entropy.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/cross_entropy_cases.h"

namespace carry {
namespace {

using loss_cases::Case;
using loss_cases::kCases;
using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectClose;
using testing::Matrix;
using testing::WithRounding;

class CudaCrossEntropyTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaCrossEntropyTest, IsTheOracles) {
  const Case& c = GetParam();
  testing::Random random(11);
  const Doubles logits = random.Vector(c.rows * c.vocab, c.low, c.high);
  std::vector<int32_t> targets(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) {
    targets[r] = r % 3 == 2 ? -1 : (r * 7919) % c.vocab;
  }
  const Doubles want = reference::CrossEntropy(logits, targets, c.vocab);
  const Doubles want_grad =
      reference::CrossEntropyGradient(logits, targets, c.vocab, 0.25);
  testing::ForEachOrder([&] {
    Matrix x(logits, c.rows, c.vocab, DType::kF32, c.margin);
    Matrix dx(c.rows, c.vocab, c.gradient, c.margin);
    std::vector<float> nll(c.rows, NAN), alone(c.rows, NAN);
    {
      DeviceMemory mem;
      const MatView x_at = mem.InOut(x.view());
      const int32_t* targets_at = mem.In(targets);
      EXPECT_TRUE(cuda::CrossEntropy(x_at, targets_at, 0.25f, MatView(),
                                     mem.InOut(&alone), nullptr)
                      .ok());
      MatView to = mem.InOut(dx.view());
      if (c.in_place) {
        to.data = x_at.data;
        to.stride = x_at.stride * 4 / SizeOf(c.gradient);
      }
      EXPECT_TRUE(cuda::CrossEntropy(x_at, targets_at, 0.25f, to,
                                     mem.InOut(&nll), nullptr)
                      .ok());
      mem.Finish();
    }
    ExpectClose("nll", nll, want, 2e-6);
    EXPECT_EQ(alone, nll);
    MatView to = dx.view();
    if (c.in_place) {
      to.data = x.view().data;
      to.stride = x.view().stride * 4 / SizeOf(c.gradient);
    } else {
      EXPECT_EQ(x.values(), logits);
    }
    ExpectClose("gradient", testing::Values(to), want_grad,
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
