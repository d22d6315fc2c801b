#include "framework/ops/embedding.h"

#include "framework/ops/op_span.h"

namespace carry {

Var Embedding(Tape& tape, const int32_t* tokens, int64_t batch, int64_t time,
              Parameter& table) {
  const int64_t vocab = table.shape()[0], dim = table.shape()[1];
  const int64_t rows = batch * time;
  Var x(Tensor::Empty({batch, time, dim}, DType::kF32), tape.recording());
  {
    const Span span(
        StreamInfo("embedding forward", DType::kF32, rows * dim * 8));
    table.value().backend().EmbeddingForward(tokens, rows, table.value().f32(),
                                             dim, x.value().f32());
  }
  tape.Record([=, &table]() {
    if (const Tensor dx = x.grad(); dx.defined()) {
      const Span span(
          StreamInfo("embedding backward", DType::kF32, rows * dim * 12));
      dx.backend().EmbeddingBackward(tokens, rows, dx.f32(), vocab, dim,
                                     table.GradToAdd().f32());
    }
    return absl::OkStatus();
  });
  return x;
}

}  // namespace carry
