// The op cases of the selective scan, for every backend.
#pragma once

#include "kernels/reference/selective_scan.h"
#include "kernels/selective_scan.h"
#include "tests/kernels/case_util.h"

namespace carry::scan_cases {

using reference::ScanInputs;
using testing::Doubles;
using testing::Floats;
using testing::Matrix;

struct Case {
  const char* name;
  int64_t batch, time, channels, states;
  std::vector<int64_t> starts;                        // Rows of [B * T].
  bool gate = true, carries = true, optional = true;  // D and dt_bias.
  DType x = DType::kF32;                              // u, dt_raw, z, out
  DType bc = DType::kF32;                             // B, C
  int64_t margin = 0;  // Columns around each view.
  int threads = 2;
};

inline constexpr DType kBF16 = DType::kBF16;

// NOLINTBEGIN: a table.
inline const Case kCases[] = {
    {"OneToken", 1, 1, 33, 16, {}},
    {"OneTokenStart", 2, 1, 7, 5, {1}},
    {"OneChannel", 1, 19, 1, 1, {}},
    {"Tile", 1, 16, 16, 16, {}},
    {"TilePlusOne", 1, 17, 20, 12, {}},
    {"States4", 1, 40, 33, 4, {}},
    {"States5", 2, 21, 20, 5, {3, 30}},
    {"States64", 1, 35, 20, 64, {0, 34}},
    {"States256", 1, 3, 5, 256, {}},
    {"OddEverything", 3, 37, 130, 13, {0, 5, 6, 40, 73, 74, 110}},
    {"StartsSideBySide", 1, 48, 33, 16, {0, 1, 2, 15, 16, 17, 46, 47}},
    {"NoGate", 1, 33, 20, 16, {9}, false},
    {"NoCarries", 2, 33, 20, 16, {40}, true, false},
    {"NoSkipNoBias", 1, 33, 20, 16, {}, true, true, false},
    {"Wide", 1, 50, 400, 16, {20}},
    {"Strided",
     1,
     35,
     130,
     16,
     {7},
     true,
     true,
     true,
     DType::kF32,
     DType::kF32,
     3},
    {"StridedAligned",
     2,
     35,
     128,
     16,
     {7},
     true,
     true,
     true,
     DType::kF32,
     DType::kF32,
     16},
    {"Bf16", 2, 35, 130, 16, {7}, true, true, true, kBF16, kBF16, 0},
    {"Bf16Strided", 1, 35, 33, 5, {}, true, true, true, kBF16, kBF16, 5},
    {"Bf16WithFloatBc",
     1,
     35,
     64,
     12,
     {},
     false,
     true,
     true,
     kBF16,
     DType::kF32,
     0},
    {"OneThread",
     2,
     35,
     130,
     16,
     {},
     true,
     true,
     true,
     DType::kF32,
     DType::kF32,
     0,
     1},
    {"ManyThreads",
     2,
     35,
     130,
     16,
     {8},
     true,
     true,
     true,
     DType::kF32,
     DType::kF32,
     0,
     7},
    // Rows of whole cache lines, written past the caches.
    {"LinesStates4", 1, 50, 416, 4, {20}},
    {"LinesStates8", 1, 50, 416, 8, {20}},
    {"Bf16Lines", 1, 50, 416, 16, {20}, true, true, true, kBF16, kBF16},
    {"Bf16LinesStrided", 2, 35, 160, 4, {}, true, true, true, kBF16, kBF16, 32},
    // Threads whose first group is the second half of a line.
    {"Bf16OddGroups", 1, 35, 224, 8, {}, true, true, true, kBF16, kBF16, 0, 5},
};
// NOLINTEND

inline ScanInputs MakeInputs(const Case& c) {
  testing::Random random(17);
  ScanInputs in;
  in.batch = c.batch, in.time = c.time;
  in.channels = c.channels, in.states = c.states;
  const int64_t rows = c.batch * c.time;
  in.u = random.Vector(rows * c.channels, -2, 2, c.x);
  in.dt_raw = random.Vector(rows * c.channels, -6, 1, c.x);
  if (c.gate) in.z = random.Vector(rows * c.channels, -3, 3, c.x);
  in.b = random.Vector(rows * c.states, -1, 1, c.bc);
  in.c = random.Vector(rows * c.states, -1, 1, c.bc);
  in.a = random.Vector(c.channels * c.states, -16, -0.01);
  if (c.optional) {
    in.d = random.Vector(c.channels, -1, 1);
    in.dt_bias = random.Vector(c.channels, -3, 0);
  }
  if (c.carries) {
    in.state_in = random.Vector(c.batch * c.channels * c.states, -1, 1);
  }
  if (!c.starts.empty()) in.document_start.resize(rows);
  for (int64_t row : c.starts) in.document_start[row] = 1;
  return in;
}

// The inputs as the kernel takes them.
struct KernelInputs {
  KernelInputs(const ScanInputs& in, const Case& c)
      : rows(c.batch * c.time),
        u(in.u, rows, c.channels, c.x, c.margin),
        dt_raw(in.dt_raw, rows, c.channels, c.x, c.margin),
        z(c.gate ? in.z : in.u, rows, c.channels, c.x, c.margin),
        b(in.b, rows, c.states, c.bc, c.margin),
        c(in.c, rows, c.states, c.bc, c.margin),
        a(Floats(in.a)),
        d(Floats(in.d)),
        dt_bias(Floats(in.dt_bias)),
        state_in(Floats(in.state_in)),
        starts(in.document_start) {
    args = {c.batch,
            c.time,
            c.channels,
            c.states,
            u.view(),
            dt_raw.view(),
            c.gate ? z.view() : MatView(),
            b.view(),
            this->c.view(),
            a.data(),
            testing::DataOrNull(d),
            testing::DataOrNull(dt_bias),
            testing::DataOrNull(state_in),
            starts.empty() ? nullptr : starts.data()};
  }

  int64_t rows;
  Matrix u, dt_raw, z, b, c;
  std::vector<float> a, d, dt_bias, state_in;
  std::vector<uint8_t> starts;
  SelectiveScanArgs args;
};

// Tokens [t0, t1) of a batch of one, from `state`.
inline ScanInputs Part(const ScanInputs& in, int64_t t0, int64_t t1,
                       const std::vector<float>& state) {
  const auto rows = [&](const auto& v, int64_t width) {
    using V = std::decay_t<decltype(v)>;
    return V(v.begin() + t0 * width, v.begin() + t1 * width);
  };
  ScanInputs part = in;
  part.time = t1 - t0;
  part.u = rows(in.u, in.channels), part.z = rows(in.z, in.channels);
  part.dt_raw = rows(in.dt_raw, in.channels);
  part.b = rows(in.b, in.states), part.c = rows(in.c, in.states);
  part.document_start = rows(in.document_start, 1);
  part.state_in.assign(state.begin(), state.end());
  return part;
}

// The gradients of a case's outputs.
struct OutputGradients {
  OutputGradients(const ScanInputs& in, const Case& c) {
    testing::Random random(4);
    out = random.Vector(in.u.size(), -1, 1, c.x);
    if (c.carries) state = random.Vector(in.state_in.size(), -1, 1);
  }
  Doubles out, state;
};

// Where backward writes; what is added to starts from 0.5.
struct Gradients {
  explicit Gradients(const Case& c)
      : du(c.batch * c.time, c.channels, c.x, c.margin),
        ddt(du),
        dz(du),
        db(c.batch * c.time, c.states, c.bc, c.margin),
        dc(db),
        da(c.channels * c.states, 0.5f),
        dd(c.channels, 0.5f),
        dbias(c.channels, 0.5f),
        dstate_in(c.batch * c.channels * c.states, NAN) {}

  void Expect(const Case& c, const reference::ScanGradients& want) const {
    using testing::ExpectAdded;
    using testing::ExpectClose;
    const double x = testing::WithRounding(1e-5, c.x);
    const double bc = testing::WithRounding(1e-5, c.bc);
    ExpectClose("du", du.values(), want.u, x);
    ExpectClose("ddt", ddt.values(), want.dt_raw, x);
    if (c.gate) ExpectClose("dz", dz.values(), want.z, x);
    ExpectClose("db", db.values(), want.b, bc);
    ExpectClose("dc", dc.values(), want.c, bc);
    ExpectAdded("da", da, 0.5, want.a, 3e-5);
    if (c.optional) {
      ExpectAdded("dd", dd, 0.5, want.d, 1e-5);
      ExpectAdded("dbias", dbias, 0.5, want.dt_bias, 1e-5);
    }
    ExpectClose("dstate_in", dstate_in, want.state_in, 1e-5);
    for (const Matrix* m : {&du, &ddt, &dz, &db, &dc}) {
      EXPECT_TRUE(m->MarginsUntouched());
    }
  }

  Matrix du, ddt, dz, db, dc;
  std::vector<float> da, dd, dbias, dstate_in;
};

}  // namespace carry::scan_cases
