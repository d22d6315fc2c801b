#include "framework/train/streamed_pass.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/span.h"

namespace carry {

namespace {

// The span's part of `rows` rows, dense, on the default device.
template <typename T>
Tensor Gather(const T* from, int64_t stride, int64_t rows,
              const ChunkSpan& span, DType dtype) {
  std::vector<T> dense;
  for (int64_t b = 0; b < rows; ++b) {
    dense.insert(dense.end(), from + b * stride + span.begin,
                 from + b * stride + span.end);
  }
  return Tensor::FromHost(dense.data(), {rows, span.end - span.begin}, dtype,
                          MemoryPart::kData);
}

bool AnyStart(const SequenceBatch& batch, const ChunkSpan& span) {
  if (batch.document_start == nullptr) return false;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const uint8_t* row = batch.document_start + b * batch.stride;
    if (std::any_of(row + span.begin, row + span.end,
                    [](uint8_t start) { return start != 0; })) {
      return true;
    }
  }
  return false;
}

}  // namespace

ChunkData::ChunkData(const SequenceBatch& batch, const ChunkSpan& span) {
  info.batch = batch.batch;
  info.time = span.end - span.begin;
  info.position = span.begin;
  tokens = Gather(batch.tokens, batch.stride, batch.batch, span, DType::kI32);
  if (batch.targets != nullptr) {
    targets =
        Gather(batch.targets, batch.stride, batch.batch, span, DType::kI32);
  }
  if (!AnyStart(batch, span)) return;
  document_start =
      Gather(batch.document_start, batch.stride, batch.batch, span, DType::kU8);
  info.document_start = document_start.as<uint8_t>();
}

absl::Status SumRows(const Tensor& nll, int64_t batch, double* sums) {
  absl::StatusOr<Tensor> host = nll.ToHost();
  if (!host.ok()) return host.status();
  const int64_t time = nll.size() / batch;
  for (int64_t b = 0; b < batch; ++b) {
    sums[b] = 0;
    for (int64_t t = 0; t < time; ++t) sums[b] += host->f32()[b * time + t];
  }
  return absl::OkStatus();
}

namespace {

CarryVars ToVars(const Carry& carry, bool needs_grad) {
  CarryVars vars;
  for (size_t i = 0; i < carry.fields(); ++i) {
    vars.emplace_back(carry.field(i), needs_grad);
  }
  return vars;
}

// A chunk whose tape waits for backward. The tape's closures point into
// `data`, so both live together.
struct RecordedChunk {
  explicit RecordedChunk(ChunkData d) : data(std::move(d)), tape(true) {}
  ChunkData data;
  Tape tape;
  LanguageModel::Hidden hidden;  // after the last layer
};

SpanInfo LayerSpan(const char* direction, int64_t layer, int64_t chunk) {
  SpanInfo info{.category = "layer", .name = "layer", .direction = direction};
  info.layer = layer;
  info.chunk = chunk;
  return info;
}

SpanInfo ChunkSpanInfo(const char* name, const char* direction, int64_t chunk) {
  SpanInfo info{.category = "pass", .name = name, .direction = direction};
  info.chunk = chunk;
  return info;
}

class Pass {
 public:
  Pass(LanguageModel& model, const StreamedPass& pass, size_t spans,
       const StreamedPassOptions& options)
      : model_(model),
        batch_(pass.batch),
        exchange_(*pass.exchange),
        options_(options),
        edges_(spans) {}

  // Forward without a tape; stores the carries in.
  absl::Status Forward(int64_t i, const ChunkSpan& span);
  // Forward with a tape. `first`: of two runs, carries are exchanged; otherwise
  // they are the stored ones.
  // `last`: no other chunk of this step runs backward after this one.
  absl::Status Record(int64_t i, const ChunkSpan& span, bool first, bool last);
  // Loss and backward of the chunk recorded last. The head runs here, not in
  // Record: it adds to its gradient at once, and the order of these sums must
  // not depend on which tapes are kept.
  // Its nll [B, T] go to `nll`.
  absl::Status Backward(const ChunkSpan& span, Tensor* nll);

 private:
  // The carry into a layer's first run.
  absl::StatusOr<Carry> Incoming(int64_t layer, int64_t chunk);
  // A recorded layer: exchanges carries and their gradients around it.
  absl::Status RecordLayer(int64_t layer, int64_t chunk, RecordedChunk& r,
                           const Carry& in, bool send,
                           LanguageModel::Hidden* hidden);

  LanguageModel& model_;
  const SequenceBatch& batch_;
  CarryExchange& exchange_;
  const StreamedPassOptions& options_;
  std::vector<std::vector<Carry>> edges_;  // by span and layer
  std::vector<std::unique_ptr<RecordedChunk>> recorded_;
};

absl::StatusOr<Carry> Pass::Incoming(int64_t layer, int64_t chunk) {
  absl::StatusOr<Carry> in = exchange_.Incoming(layer, chunk);
  if (in.ok() && !in->defined() && chunk > 0) {
    return absl::DataLossError(absl::StrCat(
        "layer ", layer, ", chunk ", chunk,
        ", forward would start from zeros in the middle of a sequence"));
  }
  return in;
}

absl::Status Pass::Forward(int64_t i, const ChunkSpan& span) {
  const Span trace(ChunkSpanInfo("forward", "forward", span.index));
  const ChunkData data(batch_, span);
  Tape tape(false);
  tape.SetObserver(options_.observer);
  LanguageModel::Hidden hidden =
      model_.Embed(tape, data.tokens.as<int32_t>(), data.info);
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const Span layer(LayerSpan("forward", l, span.index));
    absl::StatusOr<Carry> in = Incoming(l, span.index);
    if (!in.ok()) return in.status();
    const Carry out = Carry::Empty(model_.carry_spec(l), batch_.batch);
    CarryVars carry_out;
    hidden = model_.Layer(tape, l, hidden, data.info, ToVars(*in, false), out,
                          &carry_out);
    edges_[i].push_back(*std::move(in));
    absl::Status sent = exchange_.Outgoing(l, span.index, out);
    if (!sent.ok()) return sent;
  }
  return absl::OkStatus();
}

absl::Status Pass::RecordLayer(int64_t layer, int64_t chunk, RecordedChunk& r,
                               const Carry& in, bool send,
                               LanguageModel::Hidden* hidden) {
  const Span span(LayerSpan("forward", layer, chunk));
  const bool needs_grad = in.defined() && exchange_.NeedsGrad(chunk);
  const CarrySpec& spec = model_.carry_spec(layer);
  const CarryVars carry_in = ToVars(in, needs_grad);
  CarryExchange* exchange = &exchange_;
  // The buffer of the gradient of the carry in, made when backward gets here.
  auto din = std::make_shared<Carry>();
  // Backward of the layer is from the closure recorded last to this one.
  r.tape.Record([]() {
    if (GetSpanObserver() != nullptr) GetSpanObserver()->End();
    return absl::OkStatus();
  });
  if (needs_grad) {
    r.tape.Record([=]() {
      for (size_t i = 0; i < carry_in.size(); ++i) {
        if (!carry_in[i].grad().defined()) din->field(i).Zero();
      }
      return exchange->OutgoingGrad(layer, chunk, std::exchange(*din, {}));
    });
  }
  const Carry out = Carry::Empty(spec, batch_.batch);
  CarryVars carry_out;
  *hidden = model_.Layer(r.tape, layer, *hidden, r.data.info, carry_in, out,
                         &carry_out);
  r.tape.Record([=, &spec]() mutable {
    if (GetSpanObserver() != nullptr) {
      GetSpanObserver()->Begin(LayerSpan("backward", layer, chunk));
    }
    if (needs_grad) {
      *din = Carry::Empty(spec, out.field(0).dim(0));
      for (size_t i = 0; i < carry_in.size(); ++i) {
        carry_in[i].SetGradBuffer(din->field(i));
      }
    }
    absl::StatusOr<Carry> dout = exchange->IncomingGrad(layer, chunk);
    if (!dout.ok()) return dout.status();
    for (size_t i = 0; i < dout->fields(); ++i) {
      carry_out[i].SetGrad(dout->field(i));
    }
    return absl::OkStatus();
  });
  return send ? exchange_.Outgoing(layer, chunk, out) : absl::OkStatus();
}

absl::Status Pass::Record(int64_t i, const ChunkSpan& span, bool first,
                          bool last) {
  const Span trace(ChunkSpanInfo(first ? "forward with tape" : "second forward",
                                 "forward", span.index));
  recorded_.push_back(std::make_unique<RecordedChunk>(ChunkData(batch_, span)));
  RecordedChunk& r = *recorded_.back();
  r.tape.SetObserver(options_.observer);
  r.hidden = model_.Embed(r.tape, r.data.tokens.as<int32_t>(), r.data.info);
  for (int64_t l = 0; l < model_.layers(); ++l) {
    Carry in;
    if (first) {
      absl::StatusOr<Carry> received = Incoming(l, span.index);
      if (!received.ok()) return received.status();
      in = *std::move(received);
    } else {
      in = std::move(edges_[i][l]);
    }
    if (last && options_.layer_done) {
      r.tape.Record([this, l]() { return options_.layer_done(l); });
    }
    absl::Status status = RecordLayer(l, span.index, r, in, first, &r.hidden);
    if (!status.ok()) return status;
  }
  edges_[i].clear();
  return absl::OkStatus();
}

absl::Status Pass::Backward(const ChunkSpan& span, Tensor* nll) {
  const Span trace(ChunkSpanInfo("backward", "backward", span.index));
  CARRY_CHECK(!recorded_.empty());
  const std::unique_ptr<RecordedChunk> r = std::move(recorded_.back());
  recorded_.pop_back();
  {
    const Span head(ChunkSpanInfo("head", "", span.index));
    *nll = model_.Loss(r->tape, r->hidden, r->data.targets.as<int32_t>(),
                       options_.loss_weight);
  }
  r->hidden = {};
  return r->tape.RunBackward();
}

// Losses of the chunk that ran backward last. They are summed after another has
// been queued: the host waits for them, and the device is not to wait for it.
class LossSums {
 public:
  // `sums` of `batch` rows, in the end.
  absl::Status Add(Tensor nll, int64_t batch, double* sums) {
    absl::Status status = Finish();
    nll_ = std::move(nll);
    batch_ = batch;
    sums_ = sums;
    return status;
  }
  absl::Status Finish() {
    const Tensor nll = std::exchange(nll_, {});
    return nll.defined() ? SumRows(nll, batch_, sums_) : absl::OkStatus();
  }

 private:
  Tensor nll_;
  int64_t batch_ = 0;
  double* sums_ = nullptr;
};

}  // namespace

std::vector<ChunkSpan> CutIntoChunks(int64_t length, int64_t chunk_length) {
  if (chunk_length <= 0) chunk_length = std::max<int64_t>(length, 1);
  std::vector<ChunkSpan> spans;
  for (int64_t begin = 0; begin < length; begin += chunk_length) {
    spans.push_back({static_cast<int64_t>(spans.size()), begin,
                     std::min(length, begin + chunk_length)});
  }
  return spans;
}

int64_t KeptTapes(const LanguageModel& model, int64_t batch,
                  int64_t chunk_length, int64_t tape_memory_budget) {
  const int64_t bytes = model.TapeBytesPerToken() * batch * chunk_length;
  return std::max<int64_t>(1, tape_memory_budget / std::max<int64_t>(bytes, 1));
}

int64_t PassesInFlight(int64_t passes, int64_t ranks, int64_t layers) {
  if (ranks == 1) return 1;
  // Backward takes two to three times as long as forward.
  const int64_t enough = 1 + (4 * ranks + layers - 1) / layers;
  return std::min({std::max<int64_t>(passes, 1), enough, kMaxPassesInFlight});
}

bool HoldTapes(bool has_last_chunk, int64_t ranks, int64_t layers) {
  // In units of a layer forward: a wait of 1 + 2 to 3 for each rank on the
  // right, or all layers again.
  return has_last_chunk || 4 * (ranks - 1) <= layers;
}

std::vector<StreamStep> StreamOrder(int64_t spans, int64_t passes,
                                    int64_t tapes, bool hold) {
  std::vector<StreamStep> order;
  if (spans == 0 || passes == 0) return order;
  // Whole rounds of the newest spans whose tapes all fit, or, of the newest
  // span alone, so many passes at a time.
  const int64_t rounds = std::min(spans, tapes / passes);
  const bool window = rounds == 0 && hold;
  const int64_t first_kept = spans - rounds - (window ? 1 : 0);
  const auto add = [&](StreamStep::Kind kind, int64_t span, int64_t begin,
                       int64_t end) {
    for (int64_t m = begin; m < end; ++m) order.push_back({kind, m, span});
  };
  for (int64_t i = 0; i < first_kept; ++i) {
    add(StreamStep::kForward, i, 0, passes);
  }
  for (int64_t i = first_kept; i < spans && !window; ++i) {
    add(StreamStep::kRecord, i, 0, passes);
  }
  for (int64_t i = spans - 1; i >= 0; --i) {
    const bool turns = window && i == first_kept;
    if (turns) add(StreamStep::kRecord, i, 0, tapes);
    for (int64_t m = 0; m < passes; ++m) {
      if (i < first_kept) order.push_back({StreamStep::kRerun, m, i});
      order.push_back({StreamStep::kBackward, m, i});
      const int64_t next = m + tapes;
      if (turns && next < passes) add(StreamStep::kRecord, i, next, next + 1);
    }
  }
  return order;
}

absl::StatusOr<std::vector<std::vector<double>>> RunStreamedPasses(
    LanguageModel& model, const std::vector<StreamedPass>& passes,
    const std::vector<ChunkSpan>& spans, int64_t tapes, bool hold,
    const StreamedPassOptions& options) {
  const auto n = static_cast<int64_t>(spans.size());
  const auto m = static_cast<int64_t>(passes.size());
  std::vector<std::vector<double>> nll;
  std::vector<std::unique_ptr<Pass>> running;
  for (const StreamedPass& pass : passes) {
    nll.emplace_back(n * pass.batch.batch);
    running.push_back(std::make_unique<Pass>(model, pass, n, options));
  }
  if (n == 0 || m == 0) return nll;
  LossSums losses;
  for (const StreamStep& step : StreamOrder(n, m, tapes, hold)) {
    const ChunkSpan& span = spans[step.span];
    Pass& pass = *running[step.pass];
    const bool last = step.span == 0 && step.pass == m - 1;
    absl::Status status;
    switch (step.kind) {
      case StreamStep::kForward:
        status = pass.Forward(step.span, span);
        break;
      case StreamStep::kRecord:
      case StreamStep::kRerun:
        status = pass.Record(step.span, span, step.kind == StreamStep::kRecord,
                             last);
        break;
      case StreamStep::kBackward: {
        const int64_t batch = passes[step.pass].batch.batch;
        Tensor loss;
        status = pass.Backward(span, &loss);
        if (!status.ok()) break;
        status = losses.Add(std::move(loss), batch,
                            nll[step.pass].data() + step.span * batch);
        break;
      }
    }
    if (!status.ok()) return status;
  }
  absl::Status status = losses.Finish();
  if (!status.ok()) return status;
  return nll;
}

absl::StatusOr<std::vector<double>> RunStreamedPass(
    LanguageModel& model, const SequenceBatch& batch,
    const std::vector<ChunkSpan>& spans, CarryExchange& exchange,
    const StreamedPassOptions& options) {
  const int64_t longest = spans.empty() ? 0 : spans[0].end - spans[0].begin;
  absl::StatusOr<std::vector<std::vector<double>>> nll = RunStreamedPasses(
      model, {{batch, &exchange}}, spans,
      KeptTapes(model, batch.batch, longest, options.tape_memory_budget),
      /*hold=*/true, options);
  if (!nll.ok()) return nll.status();
  return std::move((*nll)[0]);
}

LanguageModel::Hidden ForwardTokens(LanguageModel& model, const ChunkData& data,
                                    std::vector<Carry>& carries) {
  const ChunkInfo& chunk = data.info;
  if (carries.empty()) carries.resize(model.layers());
  Tape tape(false);
  LanguageModel::Hidden hidden =
      model.Embed(tape, data.tokens.as<int32_t>(), chunk);
  for (int64_t l = 0; l < model.layers(); ++l) {
    const Carry out = Carry::Empty(model.carry_spec(l), chunk.batch);
    CarryVars carry_out;
    hidden = model.Layer(tape, l, hidden, chunk, ToVars(carries[l], false), out,
                         &carry_out);
    carries[l] = out;
  }
  return hidden;
}

Tensor ForwardLoss(LanguageModel& model, const SequenceBatch& batch,
                   const ChunkSpan& span, std::vector<Carry>& carries) {
  const ChunkData data(batch, span);
  const LanguageModel::Hidden hidden = ForwardTokens(model, data, carries);
  Tape tape(false);
  return model.Loss(tape, hidden, data.targets.as<int32_t>(), 1);
}

}  // namespace carry
