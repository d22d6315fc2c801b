#include "framework/ops/causal_conv1d.h"

#include <utility>

#include "framework/ops/op_span.h"
namespace carry {

CausalConv1dOut CausalConv1d(Tape& tape, const Var& x, Parameter& weight,
                             Parameter* bias, const Var& carry_in,
                             const uint8_t* document_start,
                             Tensor carry_buffer) {
  const Shape& shape = x.value().shape();
  CARRY_CHECK(shape.size() == 3 && weight.shape().size() == 3 &&
              weight.shape()[0] == shape[2]);
  CausalConv1dArgs args{};
  args.batch = shape[0];
  args.time = shape[1];
  args.channels = shape[2];
  args.taps = weight.shape()[2];
  args.x = x.value().view();
  args.weight = weight.value().f32();
  args.bias = bias == nullptr ? nullptr : bias->value().f32();
  args.carry_in = carry_in.defined() ? carry_in.value().f32() : nullptr;
  args.document_start = document_start;

  if (!carry_buffer.defined()) {
    carry_buffer = Tensor::Empty({args.batch, args.channels, args.taps - 1},
                                 DType::kF32, MemoryPart::kCarries);
  }
  CausalConv1dOut out;
  out.y = Var(Tensor::Empty(shape, x.value().dtype()), tape.recording());
  out.carry_out = Var(std::move(carry_buffer), tape.recording());
  {
    const Span span(StreamInfo("convolution forward", x.value().dtype(),
                               2 * out.y.value().bytes()));
    x.value().backend().CausalConv1dForward(
        args, {out.y.value().view(), out.carry_out.value().f32()});
  }

  tape.Record([args, out, x, carry_in, bias, &weight]() mutable {
    const Tensor dcarry = out.carry_out.grad();
    Tensor dy = out.y.grad();
    if (!dy.defined()) {
      dy = Tensor::Zeros(out.y.value().shape(), out.y.value().dtype());
    }
    GradTarget dx = GradTarget::Overwrite(x);
    GradTarget dcarry_in = GradTarget::Overwrite(carry_in);
    CausalConv1dBackwardArgs grad{};
    grad.dy = dy.view();
    grad.dcarry_out = dcarry.defined() ? dcarry.f32() : nullptr;
    grad.dx = dx.view();
    grad.dweight = weight.GradToAdd().f32();
    grad.dbias = bias == nullptr ? nullptr : bias->GradToAdd().f32();
    grad.dcarry_in = dcarry_in.f32();
    {
      const Span span(StreamInfo("convolution backward", x.value().dtype(),
                                 3 * out.y.value().bytes()));
      x.value().backend().CausalConv1dBackward(args, grad);
    }
    dx.Finish();
    dcarry_in.Finish();
    return absl::OkStatus();
  });
  return out;
}

}  // namespace carry
