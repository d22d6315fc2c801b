#include "kernels/causal_conv1d.h"

#include "kernels/reference/causal_conv1d.h"
#include "tests/kernels/causal_conv1d_cases.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using conv_cases::Case;
using conv_cases::Gradients;
using conv_cases::kCases;
using conv_cases::KernelInputs;
using conv_cases::MakeInputs;
using conv_cases::OutputGradients;
using reference::ConvGradients;
using reference::ConvInputs;
using reference::ConvOutputs;
using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

class CausalConv1dTest : public ::testing::TestWithParam<Case> {};

TEST_P(CausalConv1dTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  const ConvOutputs want = reference::ConvForward(in);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix y(k.rows, c.channels, c.y, c.margin);
    std::vector<float> carry_out(want.carry_out.size(), NAN);
    CausalConv1dForward(k.args, {y.view(), carry_out.data()});
    ExpectClose("y", y.values(), want.y, WithRounding(1e-6, c.y));
    EXPECT_EQ(carry_out, Floats(want.carry_out));
    EXPECT_TRUE(y.MarginsUntouched());
  });
}

TEST_P(CausalConv1dTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  const OutputGradients g(in, c);
  const ConvGradients want = reference::ConvBackward(in, g.y, g.carry);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix dy(g.y, k.rows, c.channels, c.y, c.margin);
    const std::vector<float> dcarry_out = Floats(g.carry);
    Gradients to(c);
    CausalConv1dBackward(
        k.args, {dy.view(), testing::DataOrNull(dcarry_out), to.dx.view(),
                 to.dweight.data(), testing::DataOrNull(to.dbias),
                 to.dcarry_in.data()});
    to.Expect(c, want);
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CausalConv1dTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// Exponentials to far outside of fp32's range, on both sides.
TEST(CausalConv1d, SaturatedOutputsAndGradientsAreTheOracles) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const Case c = {"", 1, 60, 40, 4, {}, true, true, true, dtype, dtype};
    ConvInputs in = MakeInputs(c);
    for (size_t e = 0; e < in.bias.size(); ++e) {
      in.bias[e] = (e % 2 == 0 ? -20.0 : 20.0) * (1.0 + e);
    }
    const OutputGradients g(in, c);
    const ConvOutputs out = reference::ConvForward(in);
    const ConvGradients want = reference::ConvBackward(in, g.y, g.carry);
    testing::ForEachTarget([&] {
      KernelInputs k(in, c);
      Matrix y(k.rows, c.channels, c.y);
      CausalConv1dForward(k.args, {y.view(), nullptr});
      ExpectClose("y", y.values(), out.y, WithRounding(1e-6, c.y));
      Matrix dy(g.y, k.rows, c.channels, c.y);
      const std::vector<float> dcarry_out = Floats(g.carry);
      Gradients to(c);
      CausalConv1dBackward(
          k.args, {dy.view(), dcarry_out.data(), to.dx.view(),
                   to.dweight.data(), to.dbias.data(), to.dcarry_in.data()});
      to.Expect(c, want);
    });
  }
}

TEST(CausalConv1dOracle, GradientIsTheFiniteDifference) {
  for (int64_t time : {2, 9}) {
    const Case c = {"", 2, time, 3, 4, {1, 3}};
    ConvInputs in = MakeInputs(c);
    testing::Random random(4);
    const Doubles dy = random.Vector(in.x.size(), -1, 1);
    const Doubles dcarry_out = random.Vector(in.carry_in.size(), -1, 1);
    const auto loss = [&] {
      const ConvOutputs out = reference::ConvForward(in);
      return testing::Dot(out.y, dy) + testing::Dot(out.carry_out, dcarry_out);
    };
    const ConvGradients grad = reference::ConvBackward(in, dy, dcarry_out);
    testing::ExpectGradient("x", loss, &in.x, grad.x);
    testing::ExpectGradient("weight", loss, &in.weight, grad.weight);
    testing::ExpectGradient("bias", loss, &in.bias, grad.bias);
    testing::ExpectGradient("carry_in", loss, &in.carry_in, grad.carry_in);
  }
}

TEST(CausalConv1d, ForwardHasTheSameBitsForAnyThreads) {
  const Case c = {"", 2, 300, 600, 4, {8}};
  const ConvInputs in = MakeInputs(c);
  testing::ForEachTarget([&] {
    Doubles one;
    for (int n : {1, 2, 5}) {
      const testing::WithThreads threads(n);
      KernelInputs k(in, c);
      Matrix y(k.rows, c.channels, c.y);
      CausalConv1dForward(k.args, {y.view(), nullptr});
      if (n == 1) one = y.values();
      EXPECT_EQ(y.values(), one) << n;
    }
  });
}

}  // namespace
}  // namespace carry
