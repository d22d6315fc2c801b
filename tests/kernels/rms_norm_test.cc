#include "kernels/rms_norm.h"

#include "kernels/reference/rms_norm.h"
#include "tests/kernels/kernel_test_util.h"
#include "tests/kernels/rms_norm_cases.h"

namespace carry {
namespace {

using norm_cases::Case;
using norm_cases::kCases;
using norm_cases::kF32;
using norm_cases::MakeInputs;
using reference::NormGradients;
using reference::NormInputs;
using reference::NormOutputs;
using testing::Doubles;
using testing::ExpectAdded;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

class RmsNormTest : public ::testing::TestWithParam<Case> {};

TEST_P(RmsNormTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs want = reference::NormForward(in);
  testing::ForEachTarget([&] {
    std::vector<float> residual = Floats(in.residual);
    Matrix delta(c.has_delta ? in.delta : in.residual, c.rows, c.dim, c.delta,
                 c.margin);
    const std::vector<float> weight = Floats(in.weight);
    std::vector<float> sum(residual.size(), NAN), inv_rms(c.rows, NAN);
    Matrix y(c.rows, c.dim, c.y, c.margin);
    float* sum_at = c.in_place ? residual.data() : sum.data();
    MatView delta_view = delta.view();
    if (!c.has_delta) delta_view.data = nullptr;
    RmsNormForward({residual.data(), delta_view, weight.data(), 1e-5f, sum_at,
                    y.view(), inv_rms.data()});
    ExpectClose("y", y.values(), want.y, WithRounding(1e-6, c.y));
    ExpectClose("sum", c.in_place ? residual : sum, want.sum, 1e-6);
    ExpectClose("inv_rms", inv_rms, want.inv_rms, 1e-6);
    EXPECT_TRUE(y.MarginsUntouched());
    Matrix again(c.rows, c.dim, c.y, c.margin);
    residual = Floats(in.residual);
    RmsNormForward({residual.data(), delta_view, weight.data(), 1e-5f, nullptr,
                    again.view(), nullptr});
    EXPECT_EQ(again.values(), y.values());
  });
}

TEST_P(RmsNormTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs forward = reference::NormForward(in);
  testing::Random random(3);
  const Doubles dy = random.Vector(in.residual.size(), -1, 1, c.y);
  for (const bool later : {true, false}) {
    const Doubles dsum =
        later ? random.Vector(in.residual.size(), -1, 1) : Doubles();
    const NormGradients want = reference::NormBackward(in, dy, dsum);
    testing::ForEachTarget([&] {
      Matrix g(dy, c.rows, c.dim, c.y, c.margin);
      std::vector<float> gsum = Floats(dsum);
      const std::vector<float> sum = Floats(forward.sum);
      const std::vector<float> inv_rms = Floats(forward.inv_rms);
      const std::vector<float> weight = Floats(in.weight);
      std::vector<float> dresidual(sum.size(), NAN);
      std::vector<float> dweight(c.dim, 0.5f);
      const bool in_place = c.in_place && later;
      float* to = in_place ? gsum.data() : dresidual.data();
      Matrix ddelta(c.rows, c.dim, c.delta, c.margin);
      MatView ddelta_view = ddelta.view();
      if (!c.has_delta) ddelta_view.data = nullptr;
      RmsNormBackward({g.view(), testing::DataOrNull(gsum), sum.data(),
                       inv_rms.data(), weight.data(), to, ddelta_view,
                       dweight.data()});
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

INSTANTIATE_TEST_SUITE_P(Table, RmsNormTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(RmsNormOracle, GradientIsTheFiniteDifference) {
  const Case c = {"", 3, 5, kF32, kF32};
  NormInputs in = MakeInputs(c);
  testing::Random random(4);
  const Doubles dy = random.Vector(15, -1, 1), dsum = random.Vector(15, -1, 1);
  const auto loss = [&] {
    const NormOutputs out = reference::NormForward(in);
    return testing::Dot(out.y, dy) + testing::Dot(out.sum, dsum);
  };
  const NormGradients grad = reference::NormBackward(in, dy, dsum);
  testing::ExpectGradient("residual", loss, &in.residual, grad.sum);
  testing::ExpectGradient("delta", loss, &in.delta, grad.sum);
  testing::ExpectGradient("weight", loss, &in.weight, grad.weight);
}

}  // namespace
}  // namespace carry
