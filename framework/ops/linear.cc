#include "framework/ops/linear.h"

#include "framework/ops/op_span.h"
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
  const int64_t k = weight.shape()[1];
  const PackedWeight& packed = weight.Packed(true, dtype, rows);
  {
    const Span span(ProductInfo("matmul", dtype, rows, n, k));
    MatMul(x.value().view(), packed, y.value().view(), Write::kOverwrite,
           bias == nullptr ? nullptr : bias->value().f32());
  }

  tape.Record([x, y, bias, &weight, dtype, rows, n, k]() mutable {
    const Tensor dy = y.grad();
    if (!dy.defined()) return absl::OkStatus();
    GradTarget dx = GradTarget::Accumulate(x);
    if (dx.view().data != nullptr) {
      const PackedWeight& packed = weight.Packed(false, dtype, rows);
      const Span span(ProductInfo("matmul dx", dtype, rows, k, n));
      MatMul(dy.view(), packed, dx.view(), dx.write(), nullptr);
      dx.Finish();
    }
    MatMulArgs dw;
    dw.a = dy.view();
    dw.transpose_a = true;
    dw.b = x.value().view();
    dw.c = weight.GradToWrite(&dw.write).view();
    {
      const Span span(ProductInfo("matmul dw", dtype, n, k, rows));
      MatMul(dw);
    }
    if (bias != nullptr) AddColumnSums(dy.view(), bias->GradToAdd().f32());
    return absl::OkStatus();
  });
  return y;
}

}  // namespace carry
