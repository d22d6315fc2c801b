#include "kernels/cuda/causal_conv1d.h"

#include "kernels/reference/causal_conv1d.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/causal_conv1d_cases.h"

namespace carry {
namespace {

using conv_cases::Case;
using conv_cases::kCases;
using conv_cases::KernelInputs;
using conv_cases::MakeInputs;
using reference::ConvGradients;
using reference::ConvInputs;
using reference::ConvOutputs;
using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectAdded;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

CausalConv1dArgs ToDevice(const CausalConv1dArgs& host, DeviceMemory* mem) {
  CausalConv1dArgs args = host;
  args.x = mem->In(host.x);
  args.weight = mem->In(host.weight, host.channels * host.taps);
  args.bias = mem->In(host.bias, host.channels);
  args.carry_in =
      mem->In(host.carry_in, host.batch * host.channels * (host.taps - 1));
  args.document_start = mem->In(host.document_start, host.batch * host.time);
  return args;
}

class CudaCausalConv1dTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaCausalConv1dTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  const ConvOutputs want = reference::ConvForward(in);
  testing::ForEachOrder([&] {
    KernelInputs k(in, c);
    Matrix y(k.rows, c.channels, c.y, c.margin);
    std::vector<float> carry_out(want.carry_out.size(), NAN);
    DeviceMemory mem;
    const cuda::LaunchStatus status = cuda::CausalConv1dForward(
        ToDevice(k.args, &mem), {mem.InOut(y.view()), mem.InOut(&carry_out)},
        nullptr);
    ASSERT_TRUE(status.ok()) << status.kernel << " " << status.error;
    mem.Finish();
    ExpectClose("y", y.values(), want.y, WithRounding(1e-6, c.y));
    EXPECT_EQ(carry_out, Floats(want.carry_out));
    EXPECT_TRUE(y.MarginsUntouched());
  });
}

TEST_P(CudaCausalConv1dTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  testing::Random random(6);
  const Doubles dy = random.Vector(in.x.size(), -1, 1, c.y);
  const Doubles dcarry_out =
      c.carries ? random.Vector(in.carry_in.size(), -1, 1) : Doubles();
  const ConvGradients want = reference::ConvBackward(in, dy, dcarry_out);
  testing::ForEachOrder([&] {
    KernelInputs k(in, c);
    Matrix g(dy, k.rows, c.channels, c.y, c.margin);
    Matrix dx(k.rows, c.channels, c.x, c.margin);
    const std::vector<float> gcarry = Floats(dcarry_out);
    std::vector<float> dweight(want.weight.size(), 0.5f);
    std::vector<float> dbias(want.bias.size(), 0.5f);
    std::vector<float> dcarry_in(want.carry_in.size(), NAN);
    DeviceMemory mem;
    const CausalConv1dArgs args = ToDevice(k.args, &mem);
    const cuda::LaunchStatus status = cuda::CausalConv1dBackward(
        args,
        {mem.In(ConstMatView(g.view())), mem.In(gcarry), mem.InOut(dx.view()),
         mem.InOut(&dweight), c.bias ? mem.InOut(&dbias) : nullptr,
         mem.InOut(&dcarry_in)},
        mem.Scratch<float>(cuda::CausalConv1dBackwardWorkspace(args)), nullptr);
    ASSERT_TRUE(status.ok()) << status.kernel << " " << status.error;
    mem.Finish();
    ExpectClose("dx", dx.values(), want.x, WithRounding(2e-6, c.x));
    ExpectAdded("dweight", dweight, 0.5, want.weight, 4e-6);
    if (c.bias) ExpectAdded("dbias", dbias, 0.5, want.bias, 4e-6);
    ExpectClose("dcarry_in", dcarry_in, want.carry_in, 2e-6);
    EXPECT_TRUE(dx.MarginsUntouched());
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CudaCausalConv1dTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
