#include "framework/ops/linear.h"

#include "framework/ops/op_span.h"

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
  const WeightPack& packed = weight.Packed(true, dtype, rows);
  {
    const Span span(ProductInfo("matmul", dtype, rows, n, k));
    x.value().backend().MatMul(x.value().view(), packed, /*transpose=*/true,
                               y.value().view(), Write::kOverwrite,
                               bias == nullptr ? nullptr : bias->value().f32());
  }

  tape.Record([x, y, bias, &weight, dtype, rows, n, k]() mutable {
    const Tensor dy = y.grad();
    if (!dy.defined()) return absl::OkStatus();
    Backend& backend = dy.backend();
    GradTarget dx = GradTarget::Accumulate(x);
    if (dx.view().data != nullptr) {
      const WeightPack& packed = weight.Packed(false, dtype, rows);
      const Span span(ProductInfo("matmul dx", dtype, rows, k, n));
      backend.MatMul(dy.view(), packed, /*transpose=*/false, dx.view(),
                     dx.write(), nullptr);
      dx.Finish();
    }
    Write write;
    const MatView dw = weight.GradToWrite(&write).view();
    {
      const Span span(ProductInfo("matmul dw", dtype, n, k, rows));
      backend.MatMul(dy.view(), /*transpose_a=*/true, x.value().view(),
                     /*transpose_b=*/false, dw, write);
    }
    if (bias != nullptr) {
      backend.AddColumnSums(dy.view(), bias->GradToAdd().f32());
    }
    return absl::OkStatus();
  });
  return y;
}

}  // namespace carry
