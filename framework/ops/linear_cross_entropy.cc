#include "framework/ops/linear_cross_entropy.h"

#include <algorithm>

#include "kernels/cross_entropy.h"
#include "kernels/matmul.h"

namespace carry {
namespace {

constexpr int64_t kSliceBytes = int64_t{32} << 20;
constexpr int64_t kMinRows = 64;  // fewer leave the matrix units idle

}  // namespace

int64_t CrossEntropySliceRows(int64_t rows, int64_t vocab) {
  const int64_t fit = kSliceBytes / (vocab * 4) / kMinRows * kMinRows;
  return std::min(rows, std::max(fit, kMinRows));
}

Tensor LinearCrossEntropy(Tape& tape, const Var& x, Parameter& weight,
                          const int32_t* targets, float loss_weight) {
  const int64_t vocab = weight.shape()[0];
  const int64_t rows = x.value().rows();
  const DType dtype = x.value().dtype();
  CARRY_CHECK(x.value().cols() == weight.shape()[1]);
  const bool gradient = tape.recording();
  const int64_t slice = CrossEntropySliceRows(rows, vocab);

  Tensor nll = Tensor::Empty({rows}, DType::kF32);
  Tensor dx;
  if (gradient) dx = Tensor::Empty(x.value().shape(), dtype);
  const Tensor logits = Tensor::Empty({slice, vocab}, DType::kF32);
  for (int64_t begin = 0; begin < rows; begin += slice) {
    const int64_t n = std::min(slice, rows - begin);
    const Tensor xs = x.value().Rows(begin, n);
    MatView out = logits.Rows(0, n).view();
    MatMul(xs.view(), weight.Packed(true, dtype, slice), out, Write::kOverwrite,
           nullptr);
    // The gradient overwrites the logits, narrowed where activations are.
    MatView dlogits = out;
    dlogits.dtype = dtype;
    dlogits.stride = out.stride * SizeOf(DType::kF32) / SizeOf(dtype);
    CrossEntropy(out, targets + begin, loss_weight,
                 gradient ? dlogits : MatView{}, nll.f32() + begin);
    if (!gradient) continue;
    MatMul(dlogits, weight.Packed(false, dtype, slice),
           dx.Rows(begin, n).view(), Write::kOverwrite, nullptr);
    MatMulArgs dw;
    dw.a = dlogits;
    dw.transpose_a = true;
    dw.b = xs.view();
    dw.c = weight.grad().view();
    dw.write = Write::kAccumulate;
    MatMul(dw);
  }
  tape.Record([x, dx]() mutable {
    CARRY_CHECK(!x.grad().defined());
    x.SetGrad(dx);
    return absl::OkStatus();
  });
  return nll;
}

}  // namespace carry
