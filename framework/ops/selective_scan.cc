#include "framework/ops/selective_scan.h"

#include <utility>

#include "framework/ops/op_span.h"

namespace carry {
namespace {

SelectiveScanArgs MakeArgs(const SelectiveScanIn& in, const Tensor& a) {
  const Shape& shape = in.u.value().shape();
  CARRY_CHECK(shape.size() == 3 && in.a_log->shape()[0] == shape[2]);
  SelectiveScanArgs args{};
  args.batch = shape[0];
  args.time = shape[1];
  args.channels = shape[2];
  args.states = in.a_log->shape()[1];
  args.u = in.u.value().view();
  args.dt_raw = in.dt_raw.value().view();
  if (in.z.defined()) args.z = in.z.value().view();
  args.b = in.b.value().view();
  args.c = in.c.value().view();
  args.a = a.f32();
  args.d = in.d == nullptr ? nullptr : in.d->value().f32();
  args.dt_bias = in.dt_bias == nullptr ? nullptr : in.dt_bias->value().f32();
  args.state_in = in.state.defined() ? in.state.value().f32() : nullptr;
  args.document_start = in.document_start;
  return args;
}

// `arrays` [B, T, E] are read or written.
SpanInfo Work(const char* name, const SelectiveScanArgs& args, int arrays) {
  const int64_t channels = args.batch * args.time * args.channels;
  return ScanInfo(name, args.u.dtype, channels * args.states,
                  channels * arrays * SizeOf(args.u.dtype));
}

void Backward(const SelectiveScanIn& in, const SelectiveScanOut& out,
              const Tensor& a, const Tensor& saved) {
  const SelectiveScanArgs args = MakeArgs(in, a);
  const Tensor dstate = out.state.grad();
  Tensor dy = out.y.grad();
  if (!dy.defined()) {
    dy = Tensor::Zeros(out.y.value().shape(), out.y.value().dtype());
  }
  GradTarget du = GradTarget::Overwrite(in.u);
  GradTarget ddt = GradTarget::Overwrite(in.dt_raw);
  GradTarget dz = GradTarget::Overwrite(in.z);
  GradTarget db = GradTarget::Overwrite(in.b);
  GradTarget dc = GradTarget::Overwrite(in.c);
  GradTarget dstate_in = GradTarget::Overwrite(in.state);
  Tensor da = Tensor::Zeros(a.shape(), DType::kF32);

  SelectiveScanBackwardArgs grad{};
  grad.dout = dy.view();
  grad.dstate_out = dstate.defined() ? dstate.f32() : nullptr;
  grad.saved = saved.f32();
  grad.du = du.view();
  grad.ddt_raw = ddt.view();
  grad.dz = dz.view();
  grad.db = db.view();
  grad.dc = dc.view();
  grad.da = da.f32();
  grad.dd = in.d == nullptr ? nullptr : in.d->GradToAdd().f32();
  grad.ddt_bias =
      in.dt_bias == nullptr ? nullptr : in.dt_bias->GradToAdd().f32();
  grad.dstate_in = dstate_in.f32();
  {
    const Span span(Work("scan backward", args, 7));
    dy.backend().SelectiveScanBackward(args, grad);
  }
  for (GradTarget* target : {&du, &ddt, &dz, &db, &dc, &dstate_in}) {
    target->Finish();
  }
  // dA/dA_log = A.
  a.backend().AddProduct(in.a_log->GradToAdd().f32(), da.f32(), a.f32(),
                         a.size());
}

}  // namespace

Tensor ScanRates(Parameter& a_log) {
  return a_log.Derived([](const Tensor& log) {
    Tensor a = Tensor::Empty(log.shape(), DType::kF32, MemoryPart::kParameters);
    a.backend().NegativeExp(log.f32(), a.f32(), a.size());
    return a;
  });
}

SelectiveScanOut SelectiveScan(Tape& tape, const SelectiveScanIn& in,
                               Tensor state_buffer) {
  const Tensor a = ScanRates(*in.a_log);
  const SelectiveScanArgs args = MakeArgs(in, a);
  if (!state_buffer.defined()) {
    state_buffer = Tensor::Empty({args.batch, args.channels, args.states},
                                 DType::kF32, MemoryPart::kCarries);
  }
  SelectiveScanOut out;
  out.y = Var(Tensor::Empty(in.u.value().shape(), in.u.value().dtype()),
              tape.recording());
  out.state = Var(std::move(state_buffer), tape.recording());
  Tensor saved;
  if (tape.recording()) {
    saved =
        Tensor::Empty({a.backend().SelectiveScanSavedSize(
                          args.batch, args.time, args.channels, args.states)},
                      DType::kF32);
  }
  {
    const Span span(Work("scan forward", args, 4));
    a.backend().SelectiveScanForward(
        args, {out.y.value().view(), out.state.value().f32(),
               saved.defined() ? saved.f32() : nullptr});
  }
  tape.Record([in, out, a, saved]() {
    Backward(in, out, a, saved);
    return absl::OkStatus();
  });
  return out;
}

void SummarizeScan(const SelectiveScanIn& in, const ScanSummary& summary) {
  const Tensor a = ScanRates(*in.a_log);
  const SelectiveScanArgs args = MakeArgs(in, a);
  const Span span(Work("scan summary", args, 2));
  a.backend().SelectiveScanSummary(args, summary);
}

void SummarizeScanGrad(const SelectiveScanIn& in, const Var& y,
                       const ScanSummary& summary) {
  const Tensor a = ScanRates(*in.a_log);
  Tensor dy = y.grad();
  if (!dy.defined()) {
    dy = Tensor::Zeros(y.value().shape(), y.value().dtype());
  }
  const SelectiveScanArgs args = MakeArgs(in, a);
  const Span span(Work("scan gradient summary", args, 3));
  a.backend().SelectiveScanGradSummary(args, dy.view(), summary);
}

}  // namespace carry
