#include "framework/ops/linear.h"

#include "kernels/elementwise.h"
#include "kernels/matmul.h"

namespace carry {

Var Linear(Tape& tape, const Var& x, Parameter& weight, Parameter* bias) {
  const int64_t n = weight.shape()[0];
  CARRY_CHECK(weight.shape().size() == 2 &&
              x.value().cols() == weight.shape()[1]);
  const DType dtype = x.value().dtype();
  const int64_t rows = x.value().rows();
  Shape shape = x.value().shape();
  shape.back() = n;
  Var y(Tensor::Empty(std::move(shape), dtype), tape.recording());
  MatMul(x.value().view(), weight.Packed(true, dtype, rows), y.value().view(),
         Write::kOverwrite, bias == nullptr ? nullptr : bias->value().f32());

  tape.Record([x, y, bias, &weight, dtype, rows]() mutable {
    const Tensor dy = y.grad();
    if (!dy.defined()) return absl::OkStatus();
    GradTarget dx = GradTarget::Accumulate(x);
    if (dx.view().data != nullptr) {
      MatMul(dy.view(), weight.Packed(false, dtype, rows), dx.view(),
             dx.write(), nullptr);
      dx.Finish();
    }
    MatMulArgs dw;
    dw.a = dy.view();
    dw.transpose_a = true;
    dw.b = x.value().view();
    dw.c = weight.grad().view();
    dw.write = Write::kAccumulate;
    MatMul(dw);
    if (bias != nullptr) AddColumnSums(dy.view(), bias->grad().f32());
    return absl::OkStatus();
  });
  return y;
}

}  // namespace carry
