#include "kernels/cuda/rms_norm.h"

#include "kernels/reference/rms_norm.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/rms_norm_cases.h"

namespace carry {
namespace {

using norm_cases::Case;
using norm_cases::kCases;
using norm_cases::MakeInputs;
using reference::NormGradients;
using reference::NormInputs;
using reference::NormOutputs;
using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectAdded;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

class CudaRmsNormTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaRmsNormTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs want = reference::NormForward(in);
  testing::ForEachOrder([&] {
    std::vector<float> residual = Floats(in.residual);
    Matrix delta(c.has_delta ? in.delta : in.residual, c.rows, c.dim, c.delta,
                 c.margin);
    const std::vector<float> weight = Floats(in.weight);
    std::vector<float> sum(residual.size(), NAN), inv_rms(c.rows, NAN);
    Matrix y(c.rows, c.dim, c.y, c.margin);
    Matrix again(c.rows, c.dim, c.y, c.margin);
    DeviceMemory mem;
    ConstMatView delta_view = mem.In(ConstMatView(delta.view()));
    if (!c.has_delta) delta_view.data = nullptr;
    const float* residual_in = mem.In(residual);
    float* residual_at = mem.InOut(&residual);
    float* sum_at = c.in_place ? residual_at : mem.InOut(&sum);
    const float* weight_at = mem.In(weight);
    EXPECT_TRUE(
        cuda::RmsNormForward({residual_at, delta_view, weight_at, 1e-5f, sum_at,
                              mem.InOut(y.view()), mem.InOut(&inv_rms)},
                             nullptr)
            .ok());
    EXPECT_TRUE(
        cuda::RmsNormForward({residual_in, delta_view, weight_at, 1e-5f,
                              nullptr, mem.InOut(again.view()), nullptr},
                             nullptr)
            .ok());
    mem.Finish();
    ExpectClose("y", y.values(), want.y, WithRounding(1e-6, c.y));
    ExpectClose("sum", c.in_place ? residual : sum, want.sum, 1e-6);
    ExpectClose("inv_rms", inv_rms, want.inv_rms, 1e-6);
    EXPECT_TRUE(y.MarginsUntouched());
    EXPECT_EQ(again.values(), y.values());
  });
}

TEST_P(CudaRmsNormTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs forward = reference::NormForward(in);
  testing::Random random(3);
  const Doubles dy = random.Vector(in.residual.size(), -1, 1, c.y);
  for (const bool later : {true, false}) {
    const Doubles dsum =
        later ? random.Vector(in.residual.size(), -1, 1) : Doubles();
    const NormGradients want = reference::NormBackward(in, dy, dsum);
    testing::ForEachOrder([&] {
      Matrix g(dy, c.rows, c.dim, c.y, c.margin);
      std::vector<float> gsum = Floats(dsum);
      std::vector<float> dresidual(forward.sum.size(), NAN);
      std::vector<float> dweight(c.dim, 0.5f);
      const bool in_place = c.in_place && later;
      Matrix ddelta(c.rows, c.dim, c.delta, c.margin);
      DeviceMemory mem;
      float* gsum_at = mem.InOut(&gsum);
      MatView ddelta_view = mem.InOut(ddelta.view());
      if (!c.has_delta) ddelta_view.data = nullptr;
      const std::vector<float> sum = Floats(forward.sum);
      const std::vector<float> inv_rms = Floats(forward.inv_rms);
      const std::vector<float> weight = Floats(in.weight);
      const cuda::LaunchStatus status = cuda::RmsNormBackward(
          {mem.In(ConstMatView(g.view())), gsum_at, mem.In(sum),
           mem.In(inv_rms), mem.In(weight),
           in_place ? gsum_at : mem.InOut(&dresidual), ddelta_view,
           mem.InOut(&dweight)},
          mem.Scratch<float>(cuda::RmsNormBackwardWorkspace(c.rows, c.dim)),
          nullptr);
      EXPECT_TRUE(status.ok());
      mem.Finish();
      ExpectClose("dresidual", in_place ? gsum : dresidual, want.sum,
                  c.tolerance);
      if (c.has_delta) {
        ExpectClose("ddelta", ddelta.values(), want.sum,
                    WithRounding(c.tolerance, c.delta));
        EXPECT_TRUE(ddelta.MarginsUntouched());
      }
      ExpectAdded("dweight", dweight, 0.5, want.weight, 2e-6);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Table, CudaRmsNormTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
