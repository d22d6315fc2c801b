#include "kernels/cuda/selective_scan.h"

#include "kernels/reference/selective_scan.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/selective_scan_cases.h"

namespace carry {
namespace {

using cuda::ScanPlan;
using reference::ScanGradients;
using reference::ScanInputs;
using reference::ScanOutputs;
using scan_cases::Case;
using scan_cases::Gradients;
using scan_cases::kCases;
using scan_cases::KernelInputs;
using scan_cases::MakeInputs;
using scan_cases::OutputGradients;
using testing::DeviceMemory;
using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

SelectiveScanArgs ToDevice(const SelectiveScanArgs& host, DeviceMemory* mem) {
  const int64_t states = host.batch * host.channels * host.states;
  SelectiveScanArgs args = host;
  args.u = mem->In(host.u);
  args.dt_raw = mem->In(host.dt_raw);
  if (host.z.data != nullptr) args.z = mem->In(host.z);
  args.b = mem->In(host.b);
  args.c = mem->In(host.c);
  args.a = mem->In(host.a, host.channels * host.states);
  args.d = mem->In(host.d, host.channels);
  args.dt_bias = mem->In(host.dt_bias, host.channels);
  args.state_in = mem->In(host.state_in, states);
  args.document_start = mem->In(host.document_start, host.batch * host.time);
  return args;
}

// One segment; segments of two tiles, of which the last may be short; and
// several groups of channels a block.
std::vector<ScanPlan> Plans(const Case& c) {
  ScanPlan whole =
      cuda::PlanSelectiveScan(c.batch, c.time, c.channels, c.states, 1);
  whole.segments = 1;
  whole.segment_time = (c.time + 7) / 8 * 8;
  ScanPlan split = whole;
  split.segment_time = 16;
  split.segments = (c.time + 15) / 16;
  split.threads = 64;
  split.groups_a_block = 2;
  return {whole, split};
}

struct Forward {
  Forward(const Case& c, const ScanInputs& in)
      : out(c.batch * c.time, c.channels, c.x, c.margin),
        state(c.batch * c.channels * c.states, NAN),
        saved(
            cuda::SelectiveScanSavedSize(c.batch, c.time, c.channels, c.states),
            NAN),
        inputs(in, c) {}

  void Run(const ScanPlan& plan, bool inference = false) {
    DeviceMemory mem;
    const SelectiveScanArgs args = ToDevice(inputs.args, &mem);
    SelectiveScanForwardOut to = {mem.InOut(out.view()), nullptr, nullptr};
    if (!inference) {
      to.state_out = mem.InOut(&state);
      to.saved = mem.InOut(&saved);
    }
    float* workspace =
        mem.Scratch<float>(cuda::SelectiveScanForwardWorkspace(args, plan));
    const cuda::LaunchStatus status =
        cuda::SelectiveScanForward(args, to, plan, workspace, nullptr);
    ASSERT_TRUE(status.ok()) << status.kernel << " " << status.error;
    mem.Finish();
  }

  Matrix out;
  std::vector<float> state, saved;
  KernelInputs inputs;
};

struct Backward : Gradients {
  Backward(const Case& c, const Doubles& dout, const Doubles& dstate_out)
      : Gradients(c),
        c(c),
        dout(dout, c.batch * c.time, c.channels, c.x, c.margin),
        dstate_out(Floats(dstate_out)) {}

  void Run(const SelectiveScanArgs& host, const std::vector<float>& saved,
           const ScanPlan& plan) {
    DeviceMemory mem;
    const SelectiveScanArgs args = ToDevice(host, &mem);
    const SelectiveScanBackwardArgs grad = {
        mem.In(ConstMatView(dout.view())),
        mem.In(dstate_out),
        mem.In(saved),
        mem.InOut(du.view()),
        mem.InOut(ddt.view()),
        c.gate ? mem.InOut(dz.view()) : MatView(),
        mem.InOut(db.view()),
        mem.InOut(dc.view()),
        mem.InOut(&da),
        c.optional ? mem.InOut(&dd) : nullptr,
        c.optional ? mem.InOut(&dbias) : nullptr,
        mem.InOut(&dstate_in)};
    float* workspace =
        mem.Scratch<float>(cuda::SelectiveScanBackwardWorkspace(args, plan));
    const cuda::LaunchStatus status =
        cuda::SelectiveScanBackward(args, grad, plan, workspace, nullptr);
    ASSERT_TRUE(status.ok()) << status.kernel << " " << status.error;
    mem.Finish();
  }

  // Every bit of it.
  std::vector<Doubles> All() const {
    std::vector<Doubles> all;
    for (const Matrix* m : {&du, &ddt, &dz, &db, &dc}) {
      all.push_back(m->values());
    }
    for (const auto* v : {&da, &dd, &dbias, &dstate_in}) {
      all.emplace_back(v->begin(), v->end());
    }
    return all;
  }

  Case c;
  Matrix dout;
  std::vector<float> dstate_out;
};

class CudaSelectiveScanTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaSelectiveScanTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  const ScanOutputs want = reference::ScanForward(in);
  for (const ScanPlan& plan : Plans(c)) {
    SCOPED_TRACE(plan.segments);
    Doubles first;
    testing::ForEachOrder([&] {
      Forward run(c, in);
      run.Run(plan);
      ExpectClose("out", run.out.values(), want.out, WithRounding(5e-6, c.x));
      ExpectClose("state_out", run.state, want.state_out, 5e-6);
      EXPECT_TRUE(run.out.MarginsUntouched());
      // Again, in another order, without what backward needs: the same bits.
      if (first.empty()) first = run.out.values();
      EXPECT_EQ(run.out.values(), first);
      Forward again(c, in);
      again.Run(plan, true);
      EXPECT_EQ(again.out.values(), first);
    });
  }
}

TEST_P(CudaSelectiveScanTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  const OutputGradients g(in, c);
  const ScanGradients want = reference::ScanBackward(in, g.out, g.state);
  for (const ScanPlan& plan : Plans(c)) {
    SCOPED_TRACE(plan.segments);
    Forward forward(c, in);
    forward.Run(plan);
    std::vector<Doubles> first;
    testing::ForEachOrder([&] {
      Backward run(c, g.out, g.state);
      run.Run(forward.inputs.args, forward.saved, plan);
      run.Expect(c, want);
      if (first.empty()) first = run.All();
      EXPECT_EQ(run.All(), first);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Table, CudaSelectiveScanTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

bool AllFinite(const Doubles& v) {
  return std::all_of(v.begin(), v.end(),
                     [](double x) { return std::isfinite(x); });
}

TEST(CudaSelectiveScan, ExtremeStepsGiveNoNan) {
  const Case c = {"", 1, 24, 20, 16, {}};
  ScanInputs in = MakeInputs(c);
  const double steps[] = {-INFINITY, -1e30, -200, -88, -1e-30,
                          0,         80,    1e4,  1e10};
  for (size_t i = 0; i < in.dt_raw.size(); ++i) in.dt_raw[i] = steps[i % 9];
  for (size_t i = 0; i < in.a.size(); i += 7) in.a[i] = -1e4;
  for (const ScanPlan& plan : Plans(c)) {
    Forward run(c, in);
    run.Run(plan);
    EXPECT_TRUE(AllFinite(run.out.values()));
    EXPECT_TRUE(AllFinite(Doubles(run.state.begin(), run.state.end())));
    Backward back(c, in.u, in.state_in);
    back.Run(run.inputs.args, run.saved, plan);
    for (const Doubles& v : back.All()) EXPECT_TRUE(AllFinite(v));
  }
  // exp(A_log) overflows to an infinite A; a step of 0 times that is no NaN.
  for (size_t i = 0; i < in.a.size(); i += 3) in.a[i] = -INFINITY;
  for (const ScanPlan& plan : Plans(c)) {
    Forward run(c, in);
    run.Run(plan);
    EXPECT_TRUE(AllFinite(run.out.values()));
  }
}

// A NaN must not be lost: training has to notice it.
TEST(CudaSelectiveScan, NanComesThrough) {
  const Case c = {"", 1, 35, 20, 16, {}};
  ScanInputs in = MakeInputs(c);
  for (const ScanPlan& plan : Plans(c)) {
    for (Doubles* v : {&in.u, &in.dt_raw, &in.z}) {
      const double value = (*v)[3];
      (*v)[3] = NAN;
      Forward run(c, in);
      run.Run(plan);
      EXPECT_TRUE(std::isnan(run.out.values()[3]));
      (*v)[3] = value;
    }
  }
}

TEST(CudaSelectiveScan, NothingPassesADocumentStart) {
  const Case c = {"", 1, 40, 20, 16, {22}};
  ScanInputs in = MakeInputs(c);
  in.state_in.assign(in.state_in.size(), NAN);
  in.u[21 * 20 + 5] = INFINITY;
  for (const ScanPlan& plan : Plans(c)) {
    Forward run(c, in);
    run.Run(plan);
    const Doubles out = run.out.values();
    EXPECT_FALSE(std::isfinite(out[21 * 20 + 5]));
    EXPECT_TRUE(AllFinite(Doubles(out.begin() + 22 * 20, out.end())));
    EXPECT_TRUE(AllFinite(Doubles(run.state.begin(), run.state.end())));
    // Nor does a gradient.
    Backward back(c, Doubles(in.u.size(), 1.0),
                  Doubles(in.state_in.size(), NAN));
    back.Run(run.inputs.args, run.saved, plan);
    const Doubles dz = back.dz.values(), du = back.du.values();
    EXPECT_TRUE(std::isnan(du[22 * 20]));
    EXPECT_TRUE(AllFinite(Doubles(du.begin(), du.begin() + 20 * 20)));
  }
}

// Two calls with the state carried equal one, bit for bit, where neither
// splits time.
TEST(CudaSelectiveScan, ChunksHaveTheSameBits) {
  const Case whole = {"", 1, 50, 40, 12, {21}};
  const ScanInputs in = MakeInputs(whole);
  Forward all(whole, in);
  all.Run(Plans(whole)[0]);
  for (int64_t cut : {1, 8, 20, 21, 49}) {
    Doubles out;
    std::vector<float> state = Floats(in.state_in);
    for (const auto& [t0, t1] : {std::pair<int64_t, int64_t>{0, cut},
                                 std::pair<int64_t, int64_t>{cut, 50}}) {
      Case c = whole;
      c.time = t1 - t0;
      Forward run(c, scan_cases::Part(in, t0, t1, state));
      run.Run(Plans(c)[0]);
      const Doubles values = run.out.values();
      out.insert(out.end(), values.begin(), values.end());
      state = run.state;
    }
    EXPECT_EQ(out, all.out.values()) << cut;
    EXPECT_EQ(state, all.state) << cut;
  }
}

TEST(CudaSelectiveScan, RefusedLaunchNamesTheKernel) {
  const Case c = {"", 1, 5, 20, 16, {}};
  Forward run(c, MakeInputs(c));
  ScanPlan plan = Plans(c)[0];
  plan.threads = 4096;  // More than a block may have.
  const cuda::LaunchStatus status = cuda::SelectiveScanForward(
      run.inputs.args, {run.out.view(), nullptr, nullptr}, plan, nullptr,
      nullptr);
  EXPECT_FALSE(status.ok());
  EXPECT_STREQ(status.kernel, "selective_scan_forward");
}

}  // namespace
}  // namespace carry
