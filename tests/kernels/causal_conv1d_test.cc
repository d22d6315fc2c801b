#include "kernels/causal_conv1d.h"

#include "kernels/reference/causal_conv1d.h"
#include "tests/kernels/causal_conv1d_cases.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using conv_cases::Case;
using conv_cases::kCases;
using conv_cases::KernelInputs;
using conv_cases::MakeInputs;
using reference::ConvGradients;
using reference::ConvInputs;
using reference::ConvOutputs;
using testing::Doubles;
using testing::ExpectAdded;
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
  testing::Random random(6);
  const Doubles dy = random.Vector(in.x.size(), -1, 1, c.y);
  const Doubles dcarry_out =
      c.carries ? random.Vector(in.carry_in.size(), -1, 1) : Doubles();
  const ConvGradients want = reference::ConvBackward(in, dy, dcarry_out);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix g(dy, k.rows, c.channels, c.y, c.margin);
    Matrix dx(k.rows, c.channels, c.x, c.margin);
    const std::vector<float> gcarry = Floats(dcarry_out);
    std::vector<float> dweight(want.weight.size(), 0.5f);
    std::vector<float> dbias(want.bias.size(), 0.5f);
    std::vector<float> dcarry_in(want.carry_in.size(), NAN);
    CausalConv1dBackward(
        k.args,
        {g.view(), testing::DataOrNull(gcarry), dx.view(), dweight.data(),
         c.bias ? dbias.data() : nullptr, dcarry_in.data()});
    ExpectClose("dx", dx.values(), want.x, WithRounding(2e-6, c.x));
    ExpectAdded("dweight", dweight, 0.5, want.weight, 4e-6);
    if (c.bias) ExpectAdded("dbias", dbias, 0.5, want.bias, 4e-6);
    ExpectClose("dcarry_in", dcarry_in, want.carry_in, 2e-6);
    EXPECT_TRUE(dx.MarginsUntouched());
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CausalConv1dTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

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
