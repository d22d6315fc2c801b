#include "framework/ops/rms_norm.h"

#include "framework/ops/op_span.h"

namespace carry {

RmsNormOut RmsNorm(Tape& tape, const Var& residual, const Var& delta,
                   Parameter& weight, float eps, DType dtype) {
  const Tensor& r = residual.value();
  const bool has_delta = delta.defined();
  CARRY_CHECK(r.cols() == weight.size());
  RmsNormOut out;
  // Without a tape nobody reads the old residual again: sum in place.
  out.sum = Var(
      has_delta && tape.recording() ? Tensor::Empty(r.shape(), DType::kF32) : r,
      tape.recording());
  out.normed = Var(Tensor::Empty(r.shape(), dtype), tape.recording());
  Tensor inv_rms;
  if (tape.recording()) inv_rms = Tensor::Empty({r.rows()}, DType::kF32);

  RmsNormForwardArgs args{};
  args.residual = r.f32();
  if (has_delta) args.delta = delta.value().view();
  args.weight = weight.value().f32();
  args.eps = eps;
  args.sum = has_delta ? out.sum.value().f32() : nullptr;
  args.y = out.normed.value().view();
  args.inv_rms = inv_rms.defined() ? inv_rms.f32() : nullptr;
  {
    // Reads the residual and the delta, writes the sum and y.
    const int64_t bytes =
        4 + SizeOf(dtype) + (has_delta ? 4 + SizeOf(dtype) : 0);
    const Span span(StreamInfo("norm forward", dtype, r.size() * bytes));
    r.backend().RmsNormForward(args);
  }

  tape.Record([out, residual, delta, inv_rms, has_delta, &weight]() mutable {
    const Tensor dy = out.normed.grad();
    const Tensor dsum = out.sum.grad();
    if (!dy.defined()) {
      // Only the sum was used: its gradient is that of both addends.
      CARRY_CHECK(!dsum.defined());
      return absl::OkStatus();
    }
    GradTarget ddelta = GradTarget::Overwrite(has_delta ? delta : Var());
    // The gradient of the sum turns into the residual's in place.
    const Tensor dresidual =
        dsum.defined() ? dsum
                       : Tensor::Empty(residual.value().shape(), DType::kF32);
    RmsNormBackwardArgs args{};
    args.dy = dy.view();
    args.dsum = dsum.defined() ? dsum.f32() : nullptr;
    args.sum = out.sum.value().f32();
    args.inv_rms = inv_rms.f32();
    args.weight = weight.value().f32();
    args.dresidual = dresidual.f32();
    args.ddelta = ddelta.view();
    args.dweight = weight.GradToAdd().f32();
    {
      // dy, the sum, its gradient; the residual's and the delta's gradients.
      const int64_t bytes = SizeOf(dy.dtype()) * (has_delta ? 2 : 1) +
                            (args.dsum != nullptr ? 12 : 8);
      const Span span(
          StreamInfo("norm backward", dy.dtype(), dy.size() * bytes));
      dy.backend().RmsNormBackward(args);
    }
    ddelta.Finish();
    if (residual.needs_grad()) {
      CARRY_CHECK(!residual.grad().defined());
      residual.SetGrad(dresidual);
    }
    return absl::OkStatus();
  });
  return out;
}

}  // namespace carry
