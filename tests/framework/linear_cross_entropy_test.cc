// The head against double precision: one slice and several, the gradient in the
// logits' place and beside them.

#include "framework/ops/linear_cross_entropy.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/reference/cross_entropy.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/case_util.h"

namespace carry {
namespace {

using testing::Doubles;

struct Case {
  const char* name;
  int64_t rows, width, vocab;
  DType dtype;
};

class LinearCrossEntropyTest : public ::testing::TestWithParam<Case> {};

// What of a gradient in bf16 is its own rounding.
double Tolerance(DType dtype) { return dtype == DType::kF32 ? 1e-5 : 6e-3; }

void ExpectNear(const char* what, const Doubles& got, const Doubles& want,
                double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  EXPECT_LE(testing::Compare(got, want).l2, tolerance) << what;
}

Doubles Values(const Tensor& t) {
  Doubles v;
  for (int64_t i = 0; i < Product(t.shape()); ++i) {
    v.push_back(t.dtype() == DType::kF32 ? t.f32()[i]
                                         : ToFloat(t.as<BFloat16>()[i]));
  }
  return v;
}

TEST_P(LinearCrossEntropyTest, IsTheOracles) {
  const Case& c = GetParam();
  testing::Random random(3);
  const Doubles x = random.Vector(c.rows * c.width, -1, 1, c.dtype);
  const Doubles w = random.Vector(c.vocab * c.width, -1, 1, c.dtype);
  std::vector<int32_t> targets(c.rows);
  for (int64_t r = 0; r < c.rows; ++r) {
    targets[r] = r % 7 == 3 ? -1 : static_cast<int32_t>(r * 7919 % c.vocab);
  }

  ParameterStore store;
  store.BeginBucket();
  Parameter* weight =
      store.Add("head", {c.vocab, c.width}, true, ConstantInit(0));
  store.EndBuckets();
  store.Allocate(1, /*gradients=*/true);
  std::copy(w.begin(), w.end(), weight->value().f32());
  store.Changed();
  Tensor in = Tensor::Empty({c.rows, c.width}, c.dtype);
  for (int64_t i = 0; i < c.rows * c.width; ++i) {
    const auto value = static_cast<float>(x[i]);
    if (c.dtype == DType::kF32) {
      in.f32()[i] = value;
    } else {
      in.as<BFloat16>()[i] = ToBFloat16(value);
    }
  }
  const Var var(in, /*needs_grad=*/true);
  Tape tape(/*recording=*/true);
  const Tensor nll =
      LinearCrossEntropy(tape, var, *weight, targets.data(), 0.25f);
  ASSERT_TRUE(tape.RunBackward().ok());

  const Doubles logits =
      reference::MatMul(x, false, w, true, c.rows, c.vocab, c.width);
  const Doubles d =
      reference::CrossEntropyGradient(logits, targets, c.vocab, 0.25);
  const double tolerance = Tolerance(c.dtype);
  ExpectNear("nll", Values(nll),
             reference::CrossEntropy(logits, targets, c.vocab), 1e-5);
  ExpectNear("dx", Values(var.grad()),
             reference::MatMul(d, false, w, false, c.rows, c.width, c.vocab),
             tolerance);
  ExpectNear("dw", Values(weight->grad()),
             reference::MatMul(d, true, x, false, c.vocab, c.width, c.rows),
             tolerance);
}

INSTANTIATE_TEST_SUITE_P(
    Table, LinearCrossEntropyTest,
    ::testing::Values(Case{"Fp32", 33, 24, 300, DType::kF32},
                      Case{"Bf16Beside", 33, 24, 300, DType::kBF16},
                      Case{"Bf16InPlace", 33, 24, 5001, DType::kBF16},
                      Case{"Fp32Slices", 300, 8, 70001, DType::kF32},
                      Case{"Bf16Slices", 300, 8, 70000, DType::kBF16}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
