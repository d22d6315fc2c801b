#include "kernels/cuda/adamw.h"

#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/adamw_cases.h"

namespace carry {
namespace {

using testing::DeviceMemory;

class CudaAdamWTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(CudaAdamWTest, ThreeStepsAreTheOracles) {
  adamw_cases::ExpectThreeSteps(GetParam(), [](const AdamWArgs& host) {
    DeviceMemory mem;
    AdamWArgs args = host;
    args.weight = mem.InOut(host.weight, host.n);
    args.grad = mem.In(host.grad, host.n);
    args.m = mem.InOut(host.m, host.n);
    args.v = mem.InOut(host.v, host.n);
    EXPECT_TRUE(cuda::AdamW(args, nullptr).ok());
    mem.Finish();
  });
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
  const adamw_cases::Squares want(GetParam());
  std::vector<float> x = want.x;
  double first = 0;
  testing::ForEachOrder([&] {
    const double sum = Sum(x);
    EXPECT_NEAR(sum, want.sum, 1e-12 * want.sum);
    if (first == 0) first = sum;
    EXPECT_EQ(sum, first);
  });
  for (float odd : {INFINITY, NAN}) {
    x[x.size() / 2] = odd;
    EXPECT_FALSE(std::isfinite(Sum(x)));
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaAdamWTest,
                         ::testing::ValuesIn(adamw_cases::kSizes));

}  // namespace
}  // namespace carry
