// The op cases of the causal convolution, for every backend.
#pragma once

#include "kernels/causal_conv1d.h"
#include "kernels/reference/causal_conv1d.h"
#include "tests/kernels/case_util.h"

namespace carry::conv_cases {

using reference::ConvInputs;
using testing::Doubles;
using testing::Floats;
using testing::Matrix;

struct Case {
  const char* name;
  int64_t batch, time, channels, taps;
  std::vector<int64_t> starts;  // Rows of [B * T].
  bool silu = true, carries = true, bias = true;
  DType x = DType::kF32, y = DType::kF32;
  int64_t margin = 0;
  int threads = 2;
};

inline constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

// NOLINTBEGIN: a table.
inline const Case kCases[] = {
    {"OneToken", 1, 1, 33, 4, {}},
    {"OneTokenStart", 2, 1, 7, 4, {1}},
    {"TwoTokens", 1, 2, 20, 4, {}},
    {"ThreeTokensStart", 2, 3, 20, 4, {1, 5}},
    {"OneTap", 1, 9, 20, 1, {4}},
    {"TwoTaps", 1, 9, 20, 2, {4}},
    {"EightTaps", 2, 19, 33, 8, {2, 11, 12, 30}},
    {"FewerTokensThanTaps", 1, 4, 5, 7, {2}},
    {"StartsSideBySide", 1, 40, 33, 4, {0, 1, 2, 20, 22, 38, 39}},
    {"Wide", 1, 70, 1100, 4, {33, 64}},
    {"LongRows", 2, 300, 20, 4, {255, 256, 400}},
    {"NoSilu", 1, 33, 20, 4, {9}, false},
    {"NoCarries", 2, 33, 20, 4, {40}, true, false},
    {"NoBias", 1, 33, 20, 4, {}, true, true, false},
    {"Strided", 2, 35, 130, 4, {7}, true, true, true, kF32, kF32, 3},
    {"Bf16", 2, 35, 130, 4, {7}, true, true, true, kBF16, kBF16, 1},
    {"NoSiluBf16", 1, 70, 70, 4, {9, 41}, false, true, true, kBF16, kBF16, 2},
    {"NoBiasBf16", 1, 40, 64, 4, {}, true, false, false, kBF16, kBF16},
    {"Bf16ToFloat", 1, 35, 33, 3, {7}, true, true, true, kBF16, kF32},
    {"FloatToBf16", 1, 35, 33, 4, {7}, true, true, true, kF32, kBF16},
    // 4 MB: written past the caches.
    {"Large", 1, 260, 4104, 4, {33}, true, false},
    {"LargeBf16", 1, 516, 4128, 4, {33}, true, false, true, kBF16, kBF16},
    // Whole segments of a GPU's kernels, with and without starts, at both ends
    // of time and between, in rows of fours.
    {"Segments", 2, 320, 36, 4, {129, 190, 191, 450}},
    {"SegmentsBf16",
     2,
     330,
     132,
     4,
     {64, 127},
     true,
     true,
     true,
     kBF16,
     kBF16,
     4},
    {"SegmentsNoSilu", 1, 256, 8, 4, {}, false},
    {"SegmentsNoCarries", 1, 257, 8, 4, {}, true, false, false, kBF16, kF32},
    {"SegmentsFloatToBf16",
     1,
     259,
     12,
     4,
     {255},
     true,
     true,
     true,
     kF32,
     kBF16,
     8},
    {"SegmentsMisaligned",
     1,
     130,
     132,
     4,
     {},
     true,
     true,
     true,
     kBF16,
     kBF16,
     1},
    {"OneThread", 2, 300, 33, 4, {}, true, true, true, kF32, kF32, 0, 1},
    {"ManyThreads", 2, 300, 33, 4, {9}, true, true, true, kF32, kF32, 0, 7},
};
// NOLINTEND

inline ConvInputs MakeInputs(const Case& c) {
  testing::Random random(5);
  ConvInputs in;
  in.batch = c.batch, in.time = c.time;
  in.channels = c.channels, in.taps = c.taps, in.silu = c.silu;
  in.x = random.Vector(c.batch * c.time * c.channels, -2, 2, c.x);
  in.weight = random.Vector(c.channels * c.taps, -1, 1);
  if (c.bias) in.bias = random.Vector(c.channels, -1, 1);
  if (c.carries) {
    in.carry_in = random.Vector(c.batch * c.channels * (c.taps - 1), -2, 2);
  }
  if (!c.starts.empty()) in.document_start.resize(c.batch * c.time);
  for (int64_t row : c.starts) in.document_start[row] = 1;
  return in;
}

struct KernelInputs {
  KernelInputs(const ConvInputs& in, const Case& c)
      : rows(c.batch * c.time),
        x(in.x, rows, c.channels, c.x, c.margin),
        weight(Floats(in.weight)),
        bias(Floats(in.bias)),
        carry_in(Floats(in.carry_in)),
        starts(in.document_start) {
    args = {c.batch,
            c.time,
            c.channels,
            c.taps,
            x.view(),
            weight.data(),
            testing::DataOrNull(bias),
            testing::DataOrNull(carry_in),
            starts.empty() ? nullptr : starts.data(),
            c.silu};
  }
  int64_t rows;
  Matrix x;
  std::vector<float> weight, bias, carry_in;
  std::vector<uint8_t> starts;
  CausalConv1dArgs args;
};

// The gradients of a case's outputs.
struct OutputGradients {
  OutputGradients(const ConvInputs& in, const Case& c) {
    testing::Random random(6);
    y = random.Vector(in.x.size(), -1, 1, c.y);
    if (c.carries) carry = random.Vector(in.carry_in.size(), -1, 1);
  }
  Doubles y, carry;
};

// Where backward writes; what is added to starts from 0.5.
struct Gradients {
  explicit Gradients(const Case& c)
      : dx(c.batch * c.time, c.channels, c.x, c.margin),
        dweight(c.channels * c.taps, 0.5f),
        dbias(c.bias ? c.channels : 0, 0.5f),
        dcarry_in(c.batch * c.channels * (c.taps - 1), NAN) {}

  void Expect(const Case& c, const reference::ConvGradients& want) const {
    testing::ExpectClose("dx", dx.values(), want.x,
                         testing::WithRounding(2e-6, c.x));
    testing::ExpectAdded("dweight", dweight, 0.5, want.weight, 4e-6);
    if (c.bias) testing::ExpectAdded("dbias", dbias, 0.5, want.bias, 4e-6);
    testing::ExpectClose("dcarry_in", dcarry_in, want.carry_in, 2e-6);
    EXPECT_TRUE(dx.MarginsUntouched());
  }

  Matrix dx;
  std::vector<float> dweight, dbias, dcarry_in;
};

}  // namespace carry::conv_cases
