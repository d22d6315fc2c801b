#include "kernels/selective_scan_summary.h"

#include "tests/kernels/kernel_test_util.h"
#include "tests/kernels/selective_scan_summary_cases.h"

namespace carry {
namespace {

using reference::ScanInputs;
using reference::ScanSummaries;
using summary_cases::Case;
using summary_cases::kCases;
using summary_cases::KernelInputs;
using summary_cases::MakeInputs;
using summary_cases::Result;
using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;

Result RunKernels(const ScanInputs& in, const Case& c, const Doubles& dout) {
  KernelInputs host(in, c, dout);
  Result result(c);
  SelectiveScanSummary(host.args, {result.s.data(), result.dt_forward.data()});
  SelectiveScanGradSummary(host.args, host.dout.view(),
                           {result.r.data(), result.dt_backward.data()});
  const std::vector<float> zero(result.p.size());
  ApplyScanSummary(c.batch, c.channels, c.states, host.a.data(), zero.data(),
                   result.dt_forward.data(), result.p.data());
  return result;
}

class SelectiveScanSummaryTest : public ::testing::TestWithParam<Case> {};

TEST_P(SelectiveScanSummaryTest, IsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1, c.x);
  const ScanSummaries want = reference::Summaries(in, dout);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] { RunKernels(in, c, dout).Expect(want); });
}

INSTANTIATE_TEST_SUITE_P(Table, SelectiveScanSummaryTest,
                         ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// The shards' summaries make the state of the whole, both ways.
TEST(SelectiveScanSummary, ShardsMakeTheWhole) {
  const Case whole = {"", 1, 50, 40, 12, {21}};
  const ScanInputs in = MakeInputs(whole);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1);
  const ScanSummaries want = reference::Summaries(in, dout);
  const std::vector<float> a = Floats(in.a);
  testing::ForEachTarget([&] {
    for (int64_t cut : {1, 16, 20, 21, 22, 49}) {
      std::vector<Result> parts;
      for (const auto& [t0, t1] : {std::pair<int64_t, int64_t>{0, cut},
                                   std::pair<int64_t, int64_t>{cut, 50}}) {
        Case c = whole;
        ScanInputs part = in;
        c.time = part.time = t1 - t0;
        const auto rows = [&, t0 = t0, t1 = t1](const auto& v, int64_t width) {
          using V = std::decay_t<decltype(v)>;
          return V(v.begin() + t0 * width, v.begin() + t1 * width);
        };
        part.u = rows(in.u, 40), part.z = rows(in.z, 40);
        part.dt_raw = rows(in.dt_raw, 40);
        part.b = rows(in.b, 12), part.c = rows(in.c, 12);
        part.document_start = rows(in.document_start, 1);
        parts.push_back(RunKernels(part, c, rows(dout, 40)));
      }
      std::vector<float> state = parts[0].s;
      ApplyScanSummary(1, 40, 12, a.data(), parts[1].s.data(),
                       parts[1].dt_forward.data(), state.data());
      ExpectClose("s", state, want.s, 1e-5);
      std::vector<float> grad = parts[1].r;
      ApplyScanSummary(1, 40, 12, a.data(), parts[0].r.data(),
                       parts[0].dt_backward.data(), grad.data());
      ExpectClose("r", grad, want.r, 1e-5);
    }
  });
}

TEST(SelectiveScanSummary, SameBitsForAnyThreads) {
  const Case c = {"", 2, 200, 300, 16, {8}, true, DType::kF32, 0, 1, -4, 0};
  const ScanInputs in = MakeInputs(c);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1);
  testing::ForEachTarget([&] {
    Result one;
    {
      const testing::WithThreads threads(1);
      one = RunKernels(in, c, dout);
    }
    for (int n : {2, 3, 5}) {
      const testing::WithThreads threads(n);
      const Result run = RunKernels(in, c, dout);
      EXPECT_EQ(run.s, one.s) << n;
      EXPECT_EQ(run.r, one.r) << n;
      EXPECT_EQ(run.dt_forward, one.dt_forward) << n;
    }
  });
}

TEST(SelectiveScanSummary, NothingPassesADocumentStart) {
  const Case c = {"", 1, 5, 20, 16, {2}};
  ScanInputs in = MakeInputs(c);
  in.u[25] = INFINITY;  // Row 1, before the start.
  Doubles dout(in.u.size(), 1.0);
  dout[65] = NAN;  // Row 3, after it.
  testing::ForEachTarget([&] {
    const Result run = RunKernels(in, c, dout);
    for (float x : run.s) EXPECT_TRUE(std::isfinite(x));
    for (float x : run.r) EXPECT_TRUE(std::isfinite(x));
    std::vector<float> state(run.s.size(), NAN);
    const std::vector<float> a = Floats(in.a);
    ApplyScanSummary(1, 20, 16, a.data(), run.s.data(), run.dt_forward.data(),
                     state.data());
    EXPECT_EQ(state, run.s);
  });
}

}  // namespace
}  // namespace carry
