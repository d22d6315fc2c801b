// The op cases of RMSNorm, for every backend.
#pragma once

#include "kernels/reference/rms_norm.h"
#include "kernels/rms_norm.h"
#include "tests/kernels/case_util.h"

namespace carry::norm_cases {

using reference::NormInputs;
using testing::Doubles;
using testing::Floats;
using testing::Matrix;

struct Case {
  const char* name;
  int64_t rows, dim;
  DType delta, y;
  bool has_delta = true;
  bool in_place = false;  // sum over residual, dresidual over dsum
  int64_t margin = 0;
  double scale = 1;
  double tolerance = 2e-6;  // Of the gradient: 1e-7 over what cancels in it.
};

inline constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

inline const Case kCases[] = {
    {"One", 1, 1, kF32, kF32, true, false, 0, 1, 1e-2},
    {"Two", 1, 2, kF32, kF32},
    {"Short", 3, 7, kF32, kF32},
    {"Odd", 9, 33, kF32, kBF16, true, false, 3},
    {"Wide", 5, 770, kF32, kF32, true, true},
    {"NoDelta", 5, 130, kF32, kF32, false},
    {"NoDeltaInPlace", 5, 130, kBF16, kBF16, false, true},
    {"Bf16", 6, 130, kBF16, kBF16, true, true, 1},
    {"Bf16Delta", 6, 64, kBF16, kF32},
    // Rows of fours.
    {"FoursBf16", 5, 772, kBF16, kBF16, true, true, 4},
    {"FoursNoDelta", 3, 520, kF32, kBF16, false},
    {"FoursMisaligned", 3, 132, kBF16, kBF16, true, false, 1},
    {"Tiny", 4, 48, kF32, kF32, true, false, 0, 1e-4},
    {"Large", 4, 48, kF32, kF32, true, false, 0, 1e4},
};

inline NormInputs MakeInputs(const Case& c) {
  testing::Random random(9);
  NormInputs in;
  in.rows = c.rows, in.dim = c.dim, in.eps = 1e-5;
  const int64_t n = c.rows * c.dim;
  in.residual = random.Vector(n, -2 * c.scale, 2 * c.scale);
  if (c.has_delta) {
    in.delta = random.Vector(n, -c.scale, c.scale, c.delta);
  }
  in.weight = random.Vector(c.dim, 0.5, 2);
  return in;
}

// A forward pass: what it reads and where it writes.
struct Forward {
  Forward(const NormInputs& in, const Case& c)
      : c(c),
        residual(Floats(in.residual)),
        weight(Floats(in.weight)),
        sum(residual.size(), NAN),
        inv_rms(c.rows, NAN),
        delta(c.has_delta ? in.delta : in.residual, c.rows, c.dim, c.delta,
              c.margin),
        y(c.rows, c.dim, c.y, c.margin) {}

  void Expect(const reference::NormOutputs& want) const {
    using testing::ExpectClose;
    ExpectClose("y", y.values(), want.y, testing::WithRounding(1e-6, c.y));
    ExpectClose("sum", c.in_place ? residual : sum, want.sum, 1e-6);
    ExpectClose("inv_rms", inv_rms, want.inv_rms, 1e-6);
    EXPECT_TRUE(y.MarginsUntouched());
  }

  Case c;
  std::vector<float> residual, weight, sum, inv_rms;
  Matrix delta, y;
};

// A backward pass; dweight is added to and starts from 0.5. The gradients of
// the outputs: dsum may be empty.
struct Backward {
  Backward(const NormInputs& in, const reference::NormOutputs& forward,
           const Doubles& dy, const Doubles& dsum, const Case& c)
      : c(c),
        in_place(c.in_place && !dsum.empty()),
        dsum(Floats(dsum)),
        sum(Floats(forward.sum)),
        inv_rms(Floats(forward.inv_rms)),
        weight(Floats(in.weight)),
        dresidual(sum.size(), NAN),
        dweight(c.dim, 0.5f),
        dy(dy, c.rows, c.dim, c.y, c.margin),
        ddelta(c.rows, c.dim, c.delta, c.margin) {}

  void Expect(const reference::NormGradients& want) const {
    using testing::ExpectClose;
    ExpectClose("dresidual", in_place ? dsum : dresidual, want.sum,
                c.tolerance);
    if (c.has_delta) {
      ExpectClose("ddelta", ddelta.values(), want.sum,
                  testing::WithRounding(c.tolerance, c.delta));
      EXPECT_TRUE(ddelta.MarginsUntouched());
    }
    testing::ExpectAdded("dweight", dweight, 0.5, want.weight, 2e-6);
  }

  Case c;
  bool in_place;  // dresidual over dsum
  std::vector<float> dsum, sum, inv_rms, weight, dresidual, dweight;
  Matrix dy, ddelta;
};

// Calls body(dy, dsum) with a gradient of the sum and without.
template <class Body>
void ForOutputGradients(const NormInputs& in, const Case& c, const Body& body) {
  testing::Random random(3);
  const Doubles dy = random.Vector(in.residual.size(), -1, 1, c.y);
  body(dy, random.Vector(in.residual.size(), -1, 1));
  body(dy, Doubles());
}

}  // namespace carry::norm_cases
