#include "kernels/selective_scan_summary.h"

#include "kernels/reference/selective_scan_summary.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using reference::ScanInputs;
using reference::ScanSummaries;
using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;

struct Case {
  const char* name;
  int64_t batch, time, channels, states;
  std::vector<int64_t> starts;  // Rows of [B * T].
  bool gate = true;
  DType x = DType::kF32;  // u, dt_raw, z, B, C, dout
  int64_t margin = 0;
  int threads = 2;
  double dt_low = -6, dt_high = -4;  // dt_raw
};

const Case kCases[] = {
    {"OneToken", 1, 1, 33, 16, {}},
    {"OneTokenStart", 2, 1, 7, 5, {1}},
    {"OneChannel", 1, 19, 1, 1, {}},
    {"Tile", 1, 16, 16, 16, {}},
    {"TilePlusOne", 1, 17, 20, 12, {}},
    {"States64", 1, 35, 20, 64, {}},
    {"States256", 1, 3, 5, 256, {}},
    {"StartFirst", 1, 35, 20, 5, {0}},
    {"StartLast", 1, 35, 20, 5, {34}},
    {"OddEverything", 3, 37, 130, 13, {5, 6, 40, 73, 74}},
    {"NoGate", 1, 33, 20, 16, {9}, false},
    {"Wide", 1, 50, 400, 16, {}},
    {"Strided", 1, 35, 130, 16, {}, true, DType::kF32, 3},
    {"StridedAligned", 2, 35, 128, 16, {7}, true, DType::kF32, 16},
    {"Bf16", 2, 35, 130, 16, {7}, true, DType::kBF16, 0},
    {"Bf16Strided", 1, 35, 33, 5, {}, true, DType::kBF16, 5},
    {"OneThread", 2, 35, 130, 16, {}, true, DType::kF32, 0, 1},
    {"ManyThreads", 2, 35, 130, 16, {8}, true, DType::kF32, 0, 7},
    // Longer than the memory of all states, of some, of none.
    {"Forgets", 1, 300, 40, 16, {}, true, DType::kF32, 0, 2, -1, 2},
    {"ForgetsSome", 1, 700, 40, 16, {}, true, DType::kF32, 0, 2, -6, 0},
    {"Remembers", 1, 300, 40, 16, {}, true, DType::kF32, 0, 2, -12, -9},
};

ScanInputs MakeInputs(const Case& c) {
  testing::Random random(17);
  ScanInputs in;
  in.batch = c.batch, in.time = c.time;
  in.channels = c.channels, in.states = c.states;
  const int64_t rows = c.batch * c.time;
  in.u = random.Vector(rows * c.channels, -2, 2, c.x);
  in.dt_raw = random.Vector(rows * c.channels, c.dt_low, c.dt_high, c.x);
  if (c.gate) in.z = random.Vector(rows * c.channels, -3, 3, c.x);
  in.b = random.Vector(rows * c.states, -1, 1, c.x);
  in.c = random.Vector(rows * c.states, -1, 1, c.x);
  in.a = random.Vector(c.channels * c.states, -16, -0.3);
  in.d = random.Vector(c.channels, -1, 1);
  in.dt_bias = random.Vector(c.channels, -1, 0);
  if (!c.starts.empty()) in.document_start.resize(rows);
  for (int64_t row : c.starts) in.document_start[row] = 1;
  return in;
}

struct Result {
  std::vector<float> s, r, dt_forward, dt_backward, p;
};

Result RunKernels(const ScanInputs& in, const Case& c, const Doubles& dout) {
  const int64_t rows = c.batch * c.time;
  Matrix u(in.u, rows, c.channels, c.x, c.margin);
  Matrix raw(in.dt_raw, rows, c.channels, c.x, c.margin);
  Matrix z(c.gate ? in.z : in.u, rows, c.channels, c.x, c.margin);
  Matrix b(in.b, rows, c.states, c.x, c.margin);
  Matrix cc(in.c, rows, c.states, c.x, c.margin);
  Matrix g(dout, rows, c.channels, c.x, c.margin);
  const std::vector<float> a = Floats(in.a), bias = Floats(in.dt_bias);
  SelectiveScanArgs args{};
  args.batch = c.batch, args.time = c.time;
  args.channels = c.channels, args.states = c.states;
  args.u = u.view(), args.dt_raw = raw.view();
  if (c.gate) args.z = z.view();
  args.b = b.view(), args.c = cc.view();
  args.a = a.data(), args.dt_bias = bias.data();
  if (!in.document_start.empty()) {
    args.document_start = in.document_start.data();
  }
  const int64_t ben = c.batch * c.channels * c.states;
  Result result;
  result.s.assign(ben, NAN), result.r.assign(ben, NAN);
  result.dt_forward.assign(c.batch * c.channels, NAN);
  result.dt_backward = result.dt_forward;
  SelectiveScanSummary(args, {result.s.data(), result.dt_forward.data()});
  SelectiveScanGradSummary(args, g.view(),
                           {result.r.data(), result.dt_backward.data()});
  result.p.assign(ben, 1.0f);
  const std::vector<float> zero(ben);
  ApplyScanSummary(c.batch, c.channels, c.states, a.data(), zero.data(),
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
  testing::ForEachTarget([&] {
    const Result got = RunKernels(in, c, dout);
    ExpectClose("s", got.s, want.s, 1e-5);
    ExpectClose("r", got.r, want.r, 1e-5);
    for (size_t i = 0; i < want.p.size(); ++i) {
      ASSERT_NEAR(got.p[i], want.p[i], 1e-5) << i;
    }
    for (size_t i = 0; i < got.dt_forward.size(); ++i) {
      if (std::isinf(got.dt_forward[i])) {
        EXPECT_TRUE(std::isinf(got.dt_backward[i]));
      } else {
        EXPECT_NEAR(got.dt_forward[i], got.dt_backward[i],
                    1e-5 * got.dt_forward[i]);
      }
    }
  });
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
