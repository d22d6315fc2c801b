#include "kernels/causal_conv1d.h"

#include "kernels/reference/causal_conv1d.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using reference::ConvGradients;
using reference::ConvInputs;
using reference::ConvOutputs;
using testing::Doubles;
using testing::ExpectAdded;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;
using testing::WithRounding;

struct Case {
  const char* name;
  int64_t batch, time, channels, taps;
  std::vector<int64_t> starts;  // Rows of [B * T].
  bool silu = true, carries = true, bias = true;
  DType x = DType::kF32, y = DType::kF32;
  int64_t margin = 0;
  int threads = 2;
};

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

// NOLINTBEGIN: a table.
const Case kCases[] = {
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
    {"Bf16ToFloat", 1, 35, 33, 3, {7}, true, true, true, kBF16, kF32},
    {"FloatToBf16", 1, 35, 33, 4, {7}, true, true, true, kF32, kBF16},
    // 4 MB: written past the caches.
    {"Large", 1, 260, 4104, 4, {33}, true, false},
    {"LargeBf16", 1, 516, 4128, 4, {33}, true, false, true, kBF16, kBF16},
    {"OneThread", 2, 300, 33, 4, {}, true, true, true, kF32, kF32, 0, 1},
    {"ManyThreads", 2, 300, 33, 4, {9}, true, true, true, kF32, kF32, 0, 7},
};
// NOLINTEND

ConvInputs MakeInputs(const Case& c) {
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

class CausalConv1dTest : public ::testing::TestWithParam<Case> {};

TEST_P(CausalConv1dTest, ForwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  const ConvOutputs want = reference::ConvForward(in);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix y(k.rows, c.channels, c.y, c.margin);
    std::vector<float> carry_out(want.carry_out.size(), NAN);
    CausalConv1dForward(k.args, {y.view(), carry_out.data()});
    ExpectClose("y", y.values(), want.y, WithRounding(1e-6, c.y));
    EXPECT_EQ(carry_out, Floats(want.carry_out));
    EXPECT_TRUE(y.MarginsUntouched());
  });
}

TEST_P(CausalConv1dTest, BackwardIsTheOracles) {
  const Case& c = GetParam();
  const ConvInputs in = MakeInputs(c);
  testing::Random random(6);
  const Doubles dy = random.Vector(in.x.size(), -1, 1, c.y);
  const Doubles dcarry_out =
      c.carries ? random.Vector(in.carry_in.size(), -1, 1) : Doubles();
  const ConvGradients want = reference::ConvBackward(in, dy, dcarry_out);
  const testing::WithThreads threads(c.threads);
  testing::ForEachTarget([&] {
    KernelInputs k(in, c);
    Matrix g(dy, k.rows, c.channels, c.y, c.margin);
    Matrix dx(k.rows, c.channels, c.x, c.margin);
    const std::vector<float> gcarry = Floats(dcarry_out);
    std::vector<float> dweight(want.weight.size(), 0.5f);
    std::vector<float> dbias(want.bias.size(), 0.5f);
    std::vector<float> dcarry_in(want.carry_in.size(), NAN);
    CausalConv1dBackward(
        k.args,
        {g.view(), testing::DataOrNull(gcarry), dx.view(), dweight.data(),
         c.bias ? dbias.data() : nullptr, dcarry_in.data()});
    ExpectClose("dx", dx.values(), want.x, WithRounding(2e-6, c.x));
    ExpectAdded("dweight", dweight, 0.5, want.weight, 4e-6);
    if (c.bias) ExpectAdded("dbias", dbias, 0.5, want.bias, 4e-6);
    ExpectClose("dcarry_in", dcarry_in, want.carry_in, 2e-6);
    EXPECT_TRUE(dx.MarginsUntouched());
  });
}

INSTANTIATE_TEST_SUITE_P(Table, CausalConv1dTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(CausalConv1dOracle, GradientIsTheFiniteDifference) {
  for (int64_t time : {2, 9}) {
    const Case c = {"", 2, time, 3, 4, {1, 3}};
    ConvInputs in = MakeInputs(c);
    testing::Random random(4);
    const Doubles dy = random.Vector(in.x.size(), -1, 1);
    const Doubles dcarry_out = random.Vector(in.carry_in.size(), -1, 1);
    const auto loss = [&] {
      const ConvOutputs out = reference::ConvForward(in);
      return testing::Dot(out.y, dy) + testing::Dot(out.carry_out, dcarry_out);
    };
    const ConvGradients grad = reference::ConvBackward(in, dy, dcarry_out);
    testing::ExpectGradient("x", loss, &in.x, grad.x);
    testing::ExpectGradient("weight", loss, &in.weight, grad.weight);
    testing::ExpectGradient("bias", loss, &in.bias, grad.bias);
    testing::ExpectGradient("carry_in", loss, &in.carry_in, grad.carry_in);
  }
}

TEST(CausalConv1d, ForwardHasTheSameBitsForAnyThreads) {
  const Case c = {"", 2, 300, 600, 4, {8}};
  const ConvInputs in = MakeInputs(c);
  testing::ForEachTarget([&] {
    Doubles one;
    for (int n : {1, 2, 5}) {
      const testing::WithThreads threads(n);
      KernelInputs k(in, c);
      Matrix y(k.rows, c.channels, c.y);
      CausalConv1dForward(k.args, {y.view(), nullptr});
      if (n == 1) one = y.values();
      EXPECT_EQ(y.values(), one) << n;
    }
  });
}

}  // namespace
}  // namespace carry
