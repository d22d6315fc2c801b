#include "framework/train/streamed_pass.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace carry {

ChunkData::ChunkData(const SequenceBatch& batch, const ChunkSpan& span) {
  info.batch = batch.batch;
  info.time = span.end - span.begin;
  info.position = span.begin;
  bool any_start = false;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int64_t begin = b * batch.stride + span.begin;
    const int64_t end = b * batch.stride + span.end;
    tokens.insert(tokens.end(), batch.tokens + begin, batch.tokens + end);
    if (batch.targets != nullptr) {
      targets.insert(targets.end(), batch.targets + begin, batch.targets + end);
    }
    if (batch.document_start != nullptr) {
      document_start.insert(document_start.end(), batch.document_start + begin,
                            batch.document_start + end);
    }
  }
  for (uint8_t start : document_start) any_start = any_start || start != 0;
  if (any_start) info.document_start = document_start.data();
}

void SumRows(const Tensor& nll, int64_t batch, double* sums) {
  const int64_t time = nll.size() / batch;
  for (int64_t b = 0; b < batch; ++b) {
    sums[b] = 0;
    for (int64_t t = 0; t < time; ++t) sums[b] += nll.f32()[b * time + t];
  }
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

class Pass {
 public:
  Pass(LanguageModel& model, const SequenceBatch& batch,
       CarryExchange& exchange, const StreamedPassOptions& options)
      : model_(model), batch_(batch), exchange_(exchange), options_(options) {}

  // Forward without a tape; stores the carries in.
  absl::Status Forward(const ChunkSpan& span, std::vector<Carry>* edge);
  // Forward with a tape. `edge` == nullptr: first run, carries are exchanged;
  // otherwise they are the stored ones.
  // `last`: no other chunk of this pass runs backward after this one.
  absl::Status Record(const ChunkSpan& span, const std::vector<Carry>* edge,
                      bool last);
  // Loss and backward of the chunk recorded last. The head runs here, not in
  // Record: it adds to its gradient at once, and the order of these sums must
  // not depend on which tapes are kept.
  absl::Status Backward(double* row_nll);

 private:
  // A recorded layer: exchanges carries and their gradients around it.
  absl::Status RecordLayer(int64_t layer, int64_t chunk, RecordedChunk& r,
                           const Carry& in, bool send,
                           LanguageModel::Hidden* hidden);

  LanguageModel& model_;
  const SequenceBatch& batch_;
  CarryExchange& exchange_;
  const StreamedPassOptions& options_;
  std::vector<std::unique_ptr<RecordedChunk>> recorded_;
};

absl::Status Pass::Forward(const ChunkSpan& span, std::vector<Carry>* edge) {
  const ChunkData data(batch_, span);
  Tape tape(false);
  tape.SetObserver(options_.observer);
  LanguageModel::Hidden hidden =
      model_.Embed(tape, data.tokens.data(), data.info);
  for (int64_t l = 0; l < model_.layers(); ++l) {
    absl::StatusOr<Carry> in = exchange_.Incoming(l, span.index);
    if (!in.ok()) return in.status();
    const Carry out = Carry::Empty(model_.carry_spec(l), batch_.batch);
    CarryVars carry_out;
    hidden = model_.Layer(tape, l, hidden, data.info, ToVars(*in, false), out,
                          &carry_out);
    edge->push_back(*std::move(in));
    absl::Status sent = exchange_.Outgoing(l, span.index, out);
    if (!sent.ok()) return sent;
  }
  return absl::OkStatus();
}

absl::Status Pass::RecordLayer(int64_t layer, int64_t chunk, RecordedChunk& r,
                               const Carry& in, bool send,
                               LanguageModel::Hidden* hidden) {
  const bool needs_grad = in.defined() && exchange_.NeedsGrad(chunk);
  const CarrySpec& spec = model_.carry_spec(layer);
  const CarryVars carry_in = ToVars(in, needs_grad);
  CarryExchange* exchange = &exchange_;
  // The buffer of the gradient of the carry in, made when backward gets here.
  auto din = std::make_shared<Carry>();
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

absl::Status Pass::Record(const ChunkSpan& span, const std::vector<Carry>* edge,
                          bool last) {
  recorded_.push_back(std::make_unique<RecordedChunk>(ChunkData(batch_, span)));
  RecordedChunk& r = *recorded_.back();
  r.tape.SetObserver(options_.observer);
  r.hidden = model_.Embed(r.tape, r.data.tokens.data(), r.data.info);
  for (int64_t l = 0; l < model_.layers(); ++l) {
    Carry in;
    if (edge != nullptr) {
      in = (*edge)[l];
    } else {
      absl::StatusOr<Carry> received = exchange_.Incoming(l, span.index);
      if (!received.ok()) return received.status();
      in = *std::move(received);
    }
    if (last && options_.layer_done) {
      r.tape.Record([this, l]() { return options_.layer_done(l); });
    }
    absl::Status status =
        RecordLayer(l, span.index, r, in, edge == nullptr, &r.hidden);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Pass::Backward(double* row_nll) {
  CARRY_CHECK(!recorded_.empty());
  const std::unique_ptr<RecordedChunk> r = std::move(recorded_.back());
  recorded_.pop_back();
  SumRows(model_.Loss(r->tape, r->hidden, r->data.targets.data(),
                      options_.loss_weight),
          batch_.batch, row_nll);
  r->hidden = {};
  return r->tape.RunBackward();
}

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

absl::StatusOr<std::vector<double>> RunStreamedPass(
    LanguageModel& model, const SequenceBatch& batch,
    const std::vector<ChunkSpan>& spans, CarryExchange& exchange,
    const StreamedPassOptions& options) {
  Pass pass(model, batch, exchange, options);
  const int64_t n = static_cast<int64_t>(spans.size());
  std::vector<double> nll(n * batch.batch);
  if (n == 0) return nll;
  const int64_t longest = spans[0].end - spans[0].begin;
  const int64_t kept = std::min(
      n, KeptTapes(model, batch.batch, longest, options.tape_memory_budget));
  std::vector<std::vector<Carry>> edges(n);
  for (int64_t i = 0; i < n; ++i) {
    absl::Status status = i < n - kept ? pass.Forward(spans[i], &edges[i])
                                       : pass.Record(spans[i], nullptr, i == 0);
    if (!status.ok()) return status;
  }
  for (int64_t i = n - 1; i >= 0; --i) {
    if (i < n - kept) {
      absl::Status status = pass.Record(spans[i], &edges[i], i == 0);
      if (!status.ok()) return status;
      edges[i].clear();
    }
    absl::Status status = pass.Backward(nll.data() + i * batch.batch);
    if (!status.ok()) return status;
  }
  return nll;
}

LanguageModel::Hidden ForwardTokens(LanguageModel& model, const int32_t* tokens,
                                    const ChunkInfo& chunk,
                                    std::vector<Carry>& carries) {
  if (carries.empty()) carries.resize(model.layers());
  Tape tape(false);
  LanguageModel::Hidden hidden = model.Embed(tape, tokens, chunk);
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
  const LanguageModel::Hidden hidden =
      ForwardTokens(model, data.tokens.data(), data.info, carries);
  Tape tape(false);
  return model.Loss(tape, hidden, data.targets.data(), 1);
}

}  // namespace carry
