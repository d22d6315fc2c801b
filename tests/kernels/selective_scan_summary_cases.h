// The op cases of the scan's summaries, for every backend.
#pragma once

#include "kernels/reference/selective_scan_summary.h"
#include "kernels/selective_scan_summary.h"
#include "tests/kernels/case_util.h"

namespace carry::summary_cases {

using reference::ScanInputs;
using testing::Doubles;
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

inline const Case kCases[] = {
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

inline ScanInputs MakeInputs(const Case& c) {
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

// The inputs as the kernels take them.
struct KernelInputs {
  KernelInputs(const ScanInputs& in, const Case& c, const Doubles& dout)
      : rows(c.batch * c.time),
        u(in.u, rows, c.channels, c.x, c.margin),
        dt_raw(in.dt_raw, rows, c.channels, c.x, c.margin),
        z(c.gate ? in.z : in.u, rows, c.channels, c.x, c.margin),
        b(in.b, rows, c.states, c.x, c.margin),
        c(in.c, rows, c.states, c.x, c.margin),
        dout(dout, rows, c.channels, c.x, c.margin),
        a(Floats(in.a)),
        dt_bias(Floats(in.dt_bias)),
        starts(in.document_start) {
    args.batch = c.batch, args.time = c.time;
    args.channels = c.channels, args.states = c.states;
    args.u = u.view(), args.dt_raw = dt_raw.view();
    if (c.gate) args.z = z.view();
    args.b = b.view(), args.c = this->c.view();
    args.a = a.data(), args.dt_bias = dt_bias.data();
    if (!starts.empty()) args.document_start = starts.data();
  }

  int64_t rows;
  Matrix u, dt_raw, z, b, c, dout;
  std::vector<float> a, dt_bias;
  std::vector<uint8_t> starts;
  SelectiveScanArgs args{};
};

struct Result {
  explicit Result(const Case& c)
      : s(c.batch * c.channels * c.states, NAN),
        r(s),
        dt_forward(c.batch * c.channels, NAN),
        dt_backward(dt_forward),
        p(s.size(), 1.0f) {}
  Result() = default;

  void Expect(const reference::ScanSummaries& want) const {
    testing::ExpectClose("s", s, want.s, 1e-5);
    testing::ExpectClose("r", r, want.r, 1e-5);
    for (size_t i = 0; i < want.p.size(); ++i) {
      ASSERT_NEAR(p[i], want.p[i], 1e-5) << i;
    }
    for (size_t i = 0; i < dt_forward.size(); ++i) {
      if (std::isinf(dt_forward[i])) {
        EXPECT_TRUE(std::isinf(dt_backward[i]));
      } else {
        EXPECT_NEAR(dt_forward[i], dt_backward[i], 1e-5 * dt_forward[i]);
      }
    }
  }

  std::vector<float> s, r, dt_forward, dt_backward;
  std::vector<float> p;  // What passes the shard of a state of ones.
};

}  // namespace carry::summary_cases
