#include "kernels/cuda/rms_norm.h"

#include "kernels/reference/rms_norm.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/rms_norm_cases.h"

namespace carry {
namespace {

using norm_cases::Backward;
using norm_cases::Case;
using norm_cases::ForOutputGradients;
using norm_cases::Forward;
using norm_cases::kCases;
using norm_cases::MakeInputs;
using reference::NormGradients;
using reference::NormInputs;
using reference::NormOutputs;
using testing::DeviceMemory;
using testing::Doubles;
using testing::Matrix;

class CudaRmsNormTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaRmsNormTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs want = reference::NormForward(in);
  testing::ForEachOrder([&] {
    Forward run(in, c);
    Matrix again(c.rows, c.dim, c.y, c.margin);
    DeviceMemory mem;
    ConstMatView delta = mem.In(ConstMatView(run.delta.view()));
    if (!c.has_delta) delta.data = nullptr;
    const float* residual_in = mem.In(run.residual);
    float* residual = mem.InOut(&run.residual);
    float* sum = c.in_place ? residual : mem.InOut(&run.sum);
    const float* weight = mem.In(run.weight);
    EXPECT_TRUE(
        cuda::RmsNormForward({residual, delta, weight, 1e-5f, sum,
                              mem.InOut(run.y.view()), mem.InOut(&run.inv_rms)},
                             nullptr)
            .ok());
    EXPECT_TRUE(
        cuda::RmsNormForward({residual_in, delta, weight, 1e-5f, nullptr,
                              mem.InOut(again.view()), nullptr},
                             nullptr)
            .ok());
    mem.Finish();
    run.Expect(want);
    EXPECT_EQ(again.values(), run.y.values());
  });
}

TEST_P(CudaRmsNormTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs forward = reference::NormForward(in);
  ForOutputGradients(in, c, [&](const Doubles& dy, const Doubles& dsum) {
    const NormGradients want = reference::NormBackward(in, dy, dsum);
    testing::ForEachOrder([&] {
      Backward run(in, forward, dy, dsum, c);
      DeviceMemory mem;
      float* dsum_at = mem.InOut(&run.dsum);
      MatView ddelta = mem.InOut(run.ddelta.view());
      if (!c.has_delta) ddelta.data = nullptr;
      const cuda::LaunchStatus status = cuda::RmsNormBackward(
          {mem.In(ConstMatView(run.dy.view())), dsum_at, mem.In(run.sum),
           mem.In(run.inv_rms), mem.In(run.weight),
           run.in_place ? dsum_at : mem.InOut(&run.dresidual), ddelta,
           mem.InOut(&run.dweight)},
          mem.Scratch<float>(cuda::RmsNormBackwardWorkspace(c.rows, c.dim)),
          nullptr);
      EXPECT_TRUE(status.ok());
      mem.Finish();
      run.Expect(want);
    });
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CudaRmsNormTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
