#include "kernels/selective_scan.h"

#include "kernels/reference/selective_scan.h"
#include "tests/kernels/kernel_test_util.h"
#include "tests/kernels/selective_scan_cases.h"

namespace carry {
namespace {

using reference::ScanGradients;
using reference::ScanInputs;
using reference::ScanOutputs;
using scan_cases::Case;
using scan_cases::Gradients;
using scan_cases::kCases;
using scan_cases::KernelInputs;
using scan_cases::MakeInputs;
using scan_cases::OutputGradients;
using testing::Doubles;
using testing::ExpectAdded;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

std::vector<float> Saved(const Case& c) {
  return std::vector<float>(
      SelectiveScanSavedSize(c.batch, c.time, c.channels, c.states), NAN);
}

class SelectiveScanTest : public ::testing::TestWithParam<Case> {};

TEST_P(SelectiveScanTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  const ScanOutputs want = reference::ScanForward(in);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix out(k.rows, c.channels, c.x, c.margin);
    std::vector<float> state_out(want.state_out.size(), NAN);
    std::vector<float> saved = Saved(c);
    SelectiveScanForward(k.args, {out.view(), state_out.data(), saved.data()});
    ExpectClose("out", out.values(), want.out, WithRounding(5e-6, c.x));
    ExpectClose("state_out", state_out, want.state_out, 5e-6);
    EXPECT_TRUE(out.MarginsUntouched());
    // Without what backward needs: the same bits.
    Matrix again(k.rows, c.channels, c.x, c.margin);
    SelectiveScanForward(k.args, {again.view(), nullptr, nullptr});
    EXPECT_EQ(out.values(), again.values());
  });
}

TEST_P(SelectiveScanTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const ScanInputs in = MakeInputs(c);
  const OutputGradients g(in, c);
  const ScanGradients want = reference::ScanBackward(in, g.out, g.state);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix out(k.rows, c.channels, c.x);
    std::vector<float> saved = Saved(c);
    SelectiveScanForward(k.args, {out.view(), nullptr, saved.data()});
    Matrix dout(g.out, k.rows, c.channels, c.x, c.margin);
    const std::vector<float> dstate_out = Floats(g.state);
    Gradients to(c);
    SelectiveScanBackward(
        k.args, {dout.view(), testing::DataOrNull(dstate_out), saved.data(),
                 to.du.view(), to.ddt.view(), c.gate ? to.dz.view() : MatView(),
                 to.db.view(), to.dc.view(), to.da.data(),
                 c.optional ? to.dd.data() : nullptr,
                 c.optional ? to.dbias.data() : nullptr, to.dstate_in.data()});
    to.Expect(c, want);
  });
}

INSTANTIATE_TEST_SUITE_P(Table, SelectiveScanTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

std::vector<int64_t> Every(int64_t step, int64_t rows) {
  std::vector<int64_t> all;
  for (int64_t row = step; row < rows; row += step) all.push_back(row);
  return all;
}

Case OffLines(const char* name, int64_t batch, int64_t time, int64_t channels,
              int64_t states, int64_t margin, int threads) {
  Case c = {name, batch, time, channels, states, Every(37, batch * time)};
  c.margin = margin, c.threads = threads;
  return c;
}

// Matrices that do not stay in a cache and whose rows begin anywhere in a line.
// Documents are short, since a maximum over many elements finds long products.
std::vector<Case> LargeCases() {
  std::vector<Case> cases = {
      OffLines("OffLines", 1, 1010, 1051, 2, 0, 3),
      OffLines("OffLinesOneChannelLeft", 1, 1040, 1025, 1, 1, 2),
      OffLines("OffLinesManyThreads", 2, 600, 891, 5, 6, 7),
      OffLines("OffLinesNoGate", 1, 1100, 961, 9, 3, 2),
  };
  cases.back().gate = false;
  return cases;
}
INSTANTIATE_TEST_SUITE_P(Large, SelectiveScanTest,
                         ::testing::ValuesIn(LargeCases()),
                         [](const auto& info) { return info.param.name; });

TEST(SelectiveScanOracle, GradientIsTheFiniteDifference) {
  const Case c = {"", 2, 9, 3, 2, {0, 4, 5, 17}};
  ScanInputs in = MakeInputs(c);
  testing::Random random(4);
  const Doubles dout = random.Vector(in.u.size(), -1, 1);
  const Doubles dstate_out = random.Vector(in.state_in.size(), -1, 1);
  const auto loss = [&] {
    const ScanOutputs out = reference::ScanForward(in);
    return testing::Dot(out.out, dout) +
           testing::Dot(out.state_out, dstate_out);
  };
  const ScanGradients grad = reference::ScanBackward(in, dout, dstate_out);
  testing::ExpectGradient("u", loss, &in.u, grad.u);
  testing::ExpectGradient("dt_raw", loss, &in.dt_raw, grad.dt_raw);
  testing::ExpectGradient("z", loss, &in.z, grad.z);
  testing::ExpectGradient("b", loss, &in.b, grad.b);
  testing::ExpectGradient("c", loss, &in.c, grad.c);
  testing::ExpectGradient("a", loss, &in.a, grad.a);
  testing::ExpectGradient("d", loss, &in.d, grad.d);
  testing::ExpectGradient("dt_bias", loss, &in.dt_bias, grad.dt_bias);
  testing::ExpectGradient("state_in", loss, &in.state_in, grad.state_in);
}

struct Forward {
  Doubles out;
  std::vector<float> state;
};
Forward RunForward(const Case& c, const ScanInputs& in) {
  KernelInputs k(in, c);
  Matrix out(k.rows, c.channels, c.x);
  Forward run;
  run.state.resize(c.batch * c.channels * c.states);
  SelectiveScanForward(k.args, {out.view(), run.state.data(), nullptr});
  run.out = out.values();
  return run;
}

TEST(SelectiveScan, ForwardHasTheSameBitsForAnyThreads) {
  const Case c = {"", 2, 35, 130, 16, {8}};
  const ScanInputs in = MakeInputs(c);
  testing::ForEachTarget([&] {
    Forward one;
    {
      const testing::WithThreads threads(1);
      one = RunForward(c, in);
    }
    for (int n : {2, 3, 5}) {
      const testing::WithThreads threads(n);
      const Forward run = RunForward(c, in);
      EXPECT_EQ(run.out, one.out) << n;
      EXPECT_EQ(run.state, one.state) << n;
    }
  });
}

// Two calls with the state carried equal one, bit for bit.
TEST(SelectiveScan, ChunksHaveTheSameBits) {
  const Case whole = {"", 1, 50, 40, 12, {21}};
  const ScanInputs in = MakeInputs(whole);
  testing::ForEachTarget([&] {
    const Forward all = RunForward(whole, in);
    for (int64_t cut : {1, 16, 20, 21, 49}) {
      Doubles out;
      std::vector<float> state = Floats(in.state_in);
      for (const auto& [t0, t1] : {std::pair<int64_t, int64_t>{0, cut},
                                   std::pair<int64_t, int64_t>{cut, 50}}) {
        Case c = whole;
        c.time = t1 - t0;
        const Forward run = RunForward(c, scan_cases::Part(in, t0, t1, state));
        out.insert(out.end(), run.out.begin(), run.out.end());
        state = run.state;
      }
      EXPECT_EQ(out, all.out) << cut;
      EXPECT_EQ(state, all.state) << cut;
    }
  });
}

bool AllFinite(const Doubles& v) {
  return std::all_of(v.begin(), v.end(),
                     [](double x) { return std::isfinite(x); });
}
bool AllFinite(const std::vector<float>& v) {
  return AllFinite(Doubles(v.begin(), v.end()));
}

ScanInputs ExtremeSteps(const Case& c) {
  ScanInputs in = MakeInputs(c);
  const double steps[] = {-INFINITY, -1e30, -200, -88, -1e-30,
                          0,         80,    1e4,  1e10};
  for (size_t i = 0; i < in.dt_raw.size(); ++i) in.dt_raw[i] = steps[i % 9];
  for (size_t i = 0; i < in.a.size(); i += 7) in.a[i] = -1e4;
  return in;
}

TEST(SelectiveScan, ExtremeStepsGiveNoNan) {
  const Case c = {"", 1, 24, 20, 16, {}};
  const ScanInputs in = ExtremeSteps(c);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix out(24, 20, DType::kF32), du = out, ddt = out, dz = out;
    Matrix db(24, 16, DType::kF32), dc = db;
    std::vector<float> saved = Saved(c), da(320), dd(20), dbias(20), ds(320);
    std::vector<float> state_out(320);
    SelectiveScanForward(k.args, {out.view(), state_out.data(), saved.data()});
    SelectiveScanBackward(
        k.args, {k.u.view(), k.state_in.data(), saved.data(), du.view(),
                 ddt.view(), dz.view(), db.view(), dc.view(), da.data(),
                 dd.data(), dbias.data(), ds.data()});
    EXPECT_TRUE(AllFinite(out.values()));
    for (const Matrix* m : {&du, &ddt, &dz, &db, &dc}) {
      EXPECT_TRUE(AllFinite(m->values()));
    }
    for (const auto* v : {&state_out, &da, &dd, &dbias, &ds}) {
      EXPECT_TRUE(AllFinite(*v));
    }
  });
}

// In the L2 norm, against the root of the mean square.
template <class V>
void ExpectSmallError(const std::string& what, const V& got,
                      const Doubles& want, double tolerance = 5e-6) {
  EXPECT_LE(testing::Compare(Doubles(got.begin(), got.end()), want).l2,
            tolerance)
      << what;
}

// States that hardly decay: what each step's product loses adds up.
TEST(SelectiveScan, LongProductsStayExact) {
  const Case c = {"", 1, 3000, 16, 4, {}, true, true, false};
  ScanInputs in = MakeInputs(c);
  testing::Random random(8);
  in.dt_raw = random.Vector(in.dt_raw.size(), -6, -4);
  in.a = random.Vector(in.a.size(), -1, -0.1);
  in.b = random.Vector(in.b.size(), -1, 1);
  const ScanOutputs want = reference::ScanForward(in);
  const Doubles dout = random.Vector(in.u.size(), -1, 1);
  const ScanGradients grad = reference::ScanBackward(in, dout, {});
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix out(3000, 16, DType::kF32), g(dout, 3000, 16, DType::kF32);
    Matrix du = out, ddt = out, dz = out, db(3000, 4, DType::kF32), dc = db;
    std::vector<float> saved = Saved(c), da(64), state(64), dstate_in(64);
    SelectiveScanForward(k.args, {out.view(), state.data(), saved.data()});
    SelectiveScanBackward(
        k.args,
        {g.view(), nullptr, saved.data(), du.view(), ddt.view(), dz.view(),
         db.view(), dc.view(), da.data(), nullptr, nullptr, dstate_in.data()});
    ExpectSmallError("out", out.values(), want.out);
    ExpectSmallError("state_out", state, want.state_out);
    ExpectSmallError("du", du.values(), grad.u);
    ExpectSmallError("ddt", ddt.values(), grad.dt_raw);
    ExpectSmallError("db", db.values(), grad.b);
    ExpectSmallError("dc", dc.values(), grad.c);
    ExpectSmallError("da", da, grad.a, 2e-5);
    ExpectSmallError("dstate_in", dstate_in, grad.state_in);
  });
}

// A state that decays below the smallest normal number becomes zero: else each
// further token would cost a hundred cycles an operation. The caller's own
// arithmetic keeps its denormals.
TEST(SelectiveScan, DenormalStatesBecomeZero) {
  const Case c = {"", 1, 200, 20, 16, {}, false, true, false};
  ScanInputs in = MakeInputs(c);
  std::fill(in.u.begin() + 20, in.u.end(), 0.0);
  in.dt_raw.assign(in.dt_raw.size(), 0.0);  // dt = log 2
  in.a.assign(in.a.size(), -1.0);           // a = 1/2
  volatile float tiny = 1e-38f;
  testing::ForEachTarget([&] {
    const Forward run = RunForward(c, in);
    const ScanOutputs want = reference::ScanForward(in);
    for (size_t i = 0; i < run.out.size(); ++i) {
      if (i / 20 > 140) {
        EXPECT_EQ(run.out[i], 0.0) << i;
      }
      EXPECT_NEAR(run.out[i], want.out[i],
                  std::ldexp(3e-5, -static_cast<int>(i / 20)) + 1e-36)
          << i;
    }
    for (float h : run.state) EXPECT_EQ(h, 0.0f);
    EXPECT_GT(tiny / 16, 0.0f);
  });
}

// exp(A_log) overflows to an infinite A; a step of 0 times that is no NaN.
TEST(SelectiveScan, InfiniteRatesGiveNoNan) {
  const Case c = {"", 1, 24, 20, 16, {}};
  ScanInputs in = ExtremeSteps(c);
  for (size_t i = 0; i < in.a.size(); i += 3) in.a[i] = -INFINITY;
  testing::ForEachTarget([&] {
    const Forward run = RunForward(c, in);
    EXPECT_TRUE(AllFinite(run.out));
    EXPECT_TRUE(AllFinite(run.state));
  });
}

// A NaN must not be lost: training has to notice it.
TEST(SelectiveScan, NanComesThrough) {
  const Case c = {"", 1, 5, 20, 16, {}};
  ScanInputs in = MakeInputs(c);
  testing::ForEachTarget([&] {
    for (Doubles* v : {&in.u, &in.dt_raw, &in.z}) {
      const double value = (*v)[3];
      (*v)[3] = NAN;
      EXPECT_TRUE(std::isnan(RunForward(c, in).out[3]));
      (*v)[3] = value;
    }
  });
}

// Nor does a NaN, or anything else, pass a document start.
TEST(SelectiveScan, NothingPassesADocumentStart) {
  const Case c = {"", 1, 5, 20, 16, {2}};
  ScanInputs in = MakeInputs(c);
  const Forward clean = RunForward(c, in);
  in.state_in.assign(in.state_in.size(), NAN);
  in.u[25] = INFINITY;
  testing::ForEachTarget([&] {
    const Forward run = RunForward(c, in);
    EXPECT_FALSE(std::isfinite(run.out[25]));
    EXPECT_TRUE(AllFinite(Doubles(run.out.begin() + 40, run.out.end())));
    EXPECT_TRUE(AllFinite(run.state));
  });
}

}  // namespace
}  // namespace carry
