#include "kernels/cuda/adamw.h"

#include "kernels/reference/adamw.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/case_util.h"

namespace carry {
namespace {

using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;

class CudaAdamWTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(CudaAdamWTest, ThreeStepsAreTheOracles) {
  const int64_t n = GetParam();
  const reference::AdamWConstants base = {3e-3, 0.9, 0.95, 1e-8, 0.1, 0, 0.5};
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
    DeviceMemory mem;
    const AdamWArgs args = {n,
                            mem.InOut(&weight),
                            mem.In(g),
                            mem.InOut(&m),
                            mem.InOut(&v),
                            3e-3f,
                            0.9f,
                            0.95f,
                            1e-8f,
                            0.1f,
                            static_cast<float>(1 - std::pow(0.9, step)),
                            static_cast<float>(1 - std::pow(0.95, step)),
                            0.5f};
    EXPECT_TRUE(cuda::AdamW(args, nullptr).ok());
    mem.Finish();
  }
  ExpectClose("weight", weight, want.weight, 1e-6);
  ExpectClose("m", m, want.m, 1e-6);
  ExpectClose("v", v, want.v, 2e-6);
}

double Sum(const std::vector<float>& x) {
  const int64_t n = static_cast<int64_t>(x.size());
  std::vector<double> sum = {NAN};
  DeviceMemory mem;
  EXPECT_TRUE(
      cuda::SumOfSquares(mem.In(x), n,
                         mem.Scratch<double>(cuda::SumOfSquaresWorkspace(n)),
                         mem.InOut(&sum), nullptr)
          .ok());
  mem.Finish();
  return sum[0];
}

TEST_P(CudaAdamWTest, SumOfSquaresIsExactEnough) {
  testing::Random random(8);
  std::vector<float> x = Floats(random.Vector(GetParam(), -1, 1));
  double want = 0;
  for (float f : x) want += static_cast<double>(f) * f;
  double first = 0;
  testing::ForEachOrder([&] {
    const double sum = Sum(x);
    EXPECT_NEAR(sum, want, 1e-12 * want);
    if (first == 0) first = sum;
    EXPECT_EQ(sum, first);
  });
  for (float odd : {INFINITY, NAN}) {
    x[x.size() / 2] = odd;
    EXPECT_FALSE(std::isfinite(Sum(x)));
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaAdamWTest,
                         ::testing::Values(1, 15, 33, 1000, 40000));

}  // namespace
}  // namespace carry
