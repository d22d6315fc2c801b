#include "kernels/cuda/selective_scan.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/selective_scan_summary_cases.h"

namespace carry {
namespace {

using cuda::ScanPlan;
using reference::ScanInputs;
using summary_cases::Case;
using summary_cases::kCases;
using summary_cases::KernelInputs;
using summary_cases::MakeInputs;
using summary_cases::Result;
using testing::DeviceMemory;
using testing::Doubles;
using testing::Floats;

// One segment, and segments of two tiles.
std::vector<ScanPlan> Plans(const Case& c) {
  ScanPlan whole =
      cuda::PlanSelectiveScan(c.batch, c.time, c.channels, c.states, 1);
  whole.segments = 1;
  whole.segment_time = (c.time + 7) / 8 * 8;
  ScanPlan split = whole;
  split.segment_time = 16;
  split.segments = (c.time + 15) / 16;
  split.threads = 64;
  return {whole, split};
}

SelectiveScanArgs ToDevice(const KernelInputs& host, DeviceMemory* mem) {
  SelectiveScanArgs args = host.args;
  args.u = mem->In(args.u), args.dt_raw = mem->In(args.dt_raw);
  if (args.z.data != nullptr) args.z = mem->In(args.z);
  args.b = mem->In(args.b), args.c = mem->In(args.c);
  args.a = mem->In(host.a), args.dt_bias = mem->In(host.dt_bias);
  args.document_start = mem->In(host.starts);
  return args;
}

Result RunKernels(const ScanInputs& in, const Case& c, const Doubles& dout,
                  const ScanPlan& plan) {
  KernelInputs host(in, c, dout);
  Result result(c);
  DeviceMemory mem;
  const SelectiveScanArgs args = ToDevice(host, &mem);
  const int64_t room = cuda::SelectiveScanSummaryWorkspace(args, plan);
  float* dt_sum = mem.InOut(&result.dt_forward);
  EXPECT_TRUE(cuda::SelectiveScanSummary(args, {mem.InOut(&result.s), dt_sum},
                                         plan, mem.Scratch<float>(room),
                                         nullptr)
                  .ok());
  EXPECT_TRUE(cuda::SelectiveScanGradSummary(
                  args, mem.In(ConstMatView(host.dout.view())),
                  {mem.InOut(&result.r), mem.InOut(&result.dt_backward)}, plan,
                  mem.Scratch<float>(room), nullptr)
                  .ok());
  const std::vector<float> zero(result.p.size());
  EXPECT_TRUE(cuda::ApplyScanSummary(c.batch, c.channels, c.states, args.a,
                                     mem.In(zero), dt_sum, mem.InOut(&result.p),
                                     nullptr)
                  .ok());
  mem.Finish();
  return result;
}

class CudaScanSummaryTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaScanSummaryTest, IsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1, c.x);
  const reference::ScanSummaries want = reference::Summaries(in, dout);
  for (const ScanPlan& plan : Plans(c)) {
    SCOPED_TRACE(plan.segments);
    Result first;
    testing::ForEachOrder([&] {
      const Result got = RunKernels(in, c, dout, plan);
      got.Expect(want);
      for (int64_t b = 0; b < c.batch; ++b) {
        bool starts = false;
        for (int64_t row : c.starts) starts |= row / c.time == b;
        EXPECT_EQ(std::isinf(got.dt_forward[b * c.channels]), starts) << b;
      }
      if (first.s.empty()) first = got;
      EXPECT_EQ(got.s, first.s);
      EXPECT_EQ(got.r, first.r);
      EXPECT_EQ(got.dt_forward, first.dt_forward);
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Table, CudaScanSummaryTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(CudaScanSummary, NothingPassesADocumentStart) {
  const Case c = {"", 1, 40, 20, 16, {22}};
  ScanInputs in = MakeInputs(c);
  in.u[21 * 20 + 5] = INFINITY;  // Before the start.
  Doubles dout(in.u.size(), 1.0);
  dout[23 * 20 + 5] = NAN;  // After it.
  for (const ScanPlan& plan : Plans(c)) {
    SCOPED_TRACE(plan.segments);
    const Result run = RunKernels(in, c, dout, plan);
    for (float x : run.s) EXPECT_TRUE(std::isfinite(x));
    for (float x : run.r) EXPECT_TRUE(std::isfinite(x));
    std::vector<float> state(run.s.size(), NAN);
    const std::vector<float> a = Floats(in.a);
    DeviceMemory mem;
    EXPECT_TRUE(cuda::ApplyScanSummary(1, 20, 16, mem.In(a), mem.In(run.s),
                                       mem.In(run.dt_forward),
                                       mem.InOut(&state), nullptr)
                    .ok());
    mem.Finish();
    EXPECT_EQ(state, run.s);
  }
}

// A shard's effect on a state that is not zero is the scan's.
TEST(CudaScanSummary, ShardsMakeTheWhole) {
  const Case whole = {"", 1, 50, 40, 12, {21}};
  const ScanInputs in = MakeInputs(whole);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1);
  const reference::ScanSummaries want = reference::Summaries(in, dout);
  for (int64_t cut : {1, 16, 21, 22, 49}) {
    std::vector<Result> parts;
    for (const auto& [t0, t1] : {std::pair<int64_t, int64_t>{0, cut},
                                 std::pair<int64_t, int64_t>{cut, 50}}) {
      Case c = whole;
      c.time = t1 - t0;
      const auto rows = [&, t0 = t0, t1 = t1](const auto& v, int64_t width) {
        using V = std::decay_t<decltype(v)>;
        return V(v.begin() + t0 * width, v.begin() + t1 * width);
      };
      ScanInputs part = in;
      part.time = c.time;
      part.u = rows(in.u, 40), part.z = rows(in.z, 40);
      part.dt_raw = rows(in.dt_raw, 40);
      part.b = rows(in.b, 12), part.c = rows(in.c, 12);
      part.document_start = rows(in.document_start, 1);
      parts.push_back(RunKernels(part, c, rows(dout, 40), Plans(c)[1]));
    }
    std::vector<float> state = parts[0].s, grad = parts[1].r;
    const std::vector<float> a = Floats(in.a);
    DeviceMemory mem;
    EXPECT_TRUE(cuda::ApplyScanSummary(1, 40, 12, mem.In(a), mem.In(parts[1].s),
                                       mem.In(parts[1].dt_forward),
                                       mem.InOut(&state), nullptr)
                    .ok());
    EXPECT_TRUE(cuda::ApplyScanSummary(1, 40, 12, mem.In(a), mem.In(parts[0].r),
                                       mem.In(parts[0].dt_backward),
                                       mem.InOut(&grad), nullptr)
                    .ok());
    mem.Finish();
    testing::ExpectClose("s", state, want.s, 1e-5);
    testing::ExpectClose("r", grad, want.r, 1e-5);
  }
}

}  // namespace
}  // namespace carry
