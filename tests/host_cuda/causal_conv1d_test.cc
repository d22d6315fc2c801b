#include "kernels/cuda/causal_conv1d.h"

#include "kernels/reference/causal_conv1d.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/causal_conv1d_cases.h"

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
using testing::DeviceMemory;
using testing::Doubles;
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
  const OutputGradients g(in, c);
  const ConvGradients want = reference::ConvBackward(in, g.y, g.carry);
  testing::ForEachOrder([&] {
    KernelInputs k(in, c);
    Matrix dy(g.y, k.rows, c.channels, c.y, c.margin);
    const std::vector<float> dcarry_out = Floats(g.carry);
    Gradients to(c);
    DeviceMemory mem;
    const CausalConv1dArgs args = ToDevice(k.args, &mem);
    const cuda::LaunchStatus status = cuda::CausalConv1dBackward(
        args,
        {mem.In(ConstMatView(dy.view())), mem.In(dcarry_out),
         mem.InOut(to.dx.view()), mem.InOut(&to.dweight), mem.InOut(&to.dbias),
         mem.InOut(&to.dcarry_in)},
        mem.Scratch<float>(cuda::CausalConv1dBackwardWorkspace(args)), nullptr);
    ASSERT_TRUE(status.ok()) << status.kernel << " " << status.error;
    mem.Finish();
    to.Expect(c, want);
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CudaCausalConv1dTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
