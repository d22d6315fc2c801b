#include "framework/ops/linear_cross_entropy.h"

#include <algorithm>

#include "framework/ops/op_span.h"

namespace carry {
namespace {

// Every slice reads the whole table three times and adds to its gradient: few
// rows at a time would make that, and not the arithmetic, the work.
constexpr int64_t kSliceBytes = int64_t{64} << 20;
constexpr int64_t kMinRows = 64;  // fewer leave the matrix units idle

// c = a op(W) for slices of `slice` rows.
void Product(const char* name, const ConstMatView& a, Parameter& weight,
             bool transpose, int64_t slice, const MatView& c) {
  const WeightPack& w = weight.Packed(transpose, a.dtype, slice);
  const Span span(ProductInfo(name, a.dtype, a.rows, c.cols, a.cols));
  weight.value().backend().MatMul(a, w, transpose, c, Write::kOverwrite,
                                  nullptr);
}

// dW += dlogits^T x
void AddWeightGradient(const ConstMatView& dlogits, const ConstMatView& x,
                       Parameter& weight) {
  Write write;
  const MatView dw = weight.GradToWrite(&write).view();
  const Span span(ProductInfo("matmul dw", x.dtype, dw.rows, dw.cols, x.rows));
  weight.value().backend().MatMul(dlogits, /*transpose_a=*/true, x,
                                  /*transpose_b=*/false, dw, write);
}

// Long rows of a narrower gradient are better off where the logits are: their
// lines are in the cache. Short ones had better be dense for the products.
bool GradientTakesLogitsPlace(int64_t vocab, DType dtype) {
  constexpr int64_t kLong = 4096;
  return dtype == DType::kF32 || vocab >= kLong;
}

}  // namespace

int64_t CrossEntropySliceRows(int64_t rows, int64_t vocab) {
  const int64_t fit = kSliceBytes / (vocab * 4) / kMinRows * kMinRows;
  return std::min(rows, std::max(fit, kMinRows));
}

int64_t CrossEntropyBytes(int64_t rows, int64_t vocab, DType dtype) {
  const int64_t narrow =
      GradientTakesLogitsPlace(vocab, dtype) ? 0 : SizeOf(dtype);
  return CrossEntropySliceRows(rows, vocab) * vocab * (4 + narrow);
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
  const bool in_place = GradientTakesLogitsPlace(vocab, dtype);
  Tensor dlogits;
  if (gradient && !in_place) dlogits = Tensor::Empty({slice, vocab}, dtype);
  for (int64_t begin = 0; begin < rows; begin += slice) {
    const int64_t n = std::min(slice, rows - begin);
    const Tensor xs = x.value().Rows(begin, n);
    const MatView out = logits.Rows(0, n).view();
    Product("matmul", xs.view(), weight, /*transpose=*/true, slice, out);
    MatView dout;
    if (gradient && in_place) {  // At the same pitch in bytes.
      dout = {out.data, dtype, n, vocab, vocab * 4 / SizeOf(dtype)};
    } else if (gradient) {
      dout = dlogits.Rows(0, n).view();
    }
    {
      const int64_t bytes = 4 + (gradient ? SizeOf(dtype) : 0);
      const Span span(StreamInfo("cross-entropy", dtype, n * vocab * bytes));
      x.value().backend().CrossEntropy(out, targets + begin, loss_weight, dout,
                                       nll.f32() + begin);
    }
    if (!gradient) continue;
    Product("matmul dx", dout, weight, /*transpose=*/false, slice,
            dx.Rows(begin, n).view());
    AddWeightGradient(dout, xs.view(), weight);
  }
  tape.Record([x, dx]() mutable {
    CARRY_CHECK(!x.grad().defined());
    x.SetGrad(dx);
    return absl::OkStatus();
  });
  return nll;
}

}  // namespace carry
