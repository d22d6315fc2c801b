#include "kernels/rms_norm.h"

#include "kernels/reference/rms_norm.h"
#include "tests/kernels/kernel_test_util.h"
#include "tests/kernels/rms_norm_cases.h"

namespace carry {
namespace {

using norm_cases::Backward;
using norm_cases::Case;
using norm_cases::ForOutputGradients;
using norm_cases::Forward;
using norm_cases::kCases;
using norm_cases::kF32;
using norm_cases::MakeInputs;
using reference::NormGradients;
using reference::NormInputs;
using reference::NormOutputs;
using testing::Doubles;
using testing::Floats;
using testing::Matrix;

class RmsNormTest : public ::testing::TestWithParam<Case> {};

TEST_P(RmsNormTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs want = reference::NormForward(in);
  testing::ForEachTarget([&] {
    Forward run(in, c);
    MatView delta = run.delta.view();
    if (!c.has_delta) delta.data = nullptr;
    RmsNormForward({run.residual.data(), delta, run.weight.data(), 1e-5f,
                    c.in_place ? run.residual.data() : run.sum.data(),
                    run.y.view(), run.inv_rms.data()});
    run.Expect(want);
    Matrix again(c.rows, c.dim, c.y, c.margin);
    const std::vector<float> residual = Floats(in.residual);
    RmsNormForward({residual.data(), delta, run.weight.data(), 1e-5f, nullptr,
                    again.view(), nullptr});
    EXPECT_EQ(again.values(), run.y.values());
  });
}

TEST_P(RmsNormTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const NormInputs in = MakeInputs(c);
  const NormOutputs forward = reference::NormForward(in);
  ForOutputGradients(in, c, [&](const Doubles& dy, const Doubles& dsum) {
    const NormGradients want = reference::NormBackward(in, dy, dsum);
    testing::ForEachTarget([&] {
      Backward run(in, forward, dy, dsum, c);
      MatView ddelta = run.ddelta.view();
      if (!c.has_delta) ddelta.data = nullptr;
      RmsNormBackward({run.dy.view(), testing::DataOrNull(run.dsum),
                       run.sum.data(), run.inv_rms.data(), run.weight.data(),
                       run.in_place ? run.dsum.data() : run.dresidual.data(),
                       ddelta, run.dweight.data()});
      run.Expect(want);
    });
  });
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
