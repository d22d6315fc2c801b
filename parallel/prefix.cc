#include "parallel/prefix.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "kernels/span.h"
#include "parallel/halo.h"
#include "parallel/sealed_message.h"

namespace carry {
namespace {

using Hidden = LanguageModel::Hidden;

// A layer whose tape waits for backward.
struct RecordedLayer {
  RecordedLayer() : tape(true) {}
  Tape tape;
  Hidden in, out;
};

class PrefixPass {
 public:
  PrefixPass(LanguageModel& model, const PassRequest& request,
             Communicator& sequence, Communicator& tensors, uint32_t pass);
  absl::StatusOr<PassOutcome> Run();

 private:
  using LayerRun = LinearCarry::Run;

  bool empty() const { return mine_.begin == mine_.end; }
  int64_t batch() const { return request_.batch.batch; }
  int64_t KeptLayers() const;
  LinearCarry& mixer(int64_t layer) {
    return *model_.mixer(layer).linear_carry();
  }

  absl::Status Forward();
  absl::Status Backward(std::vector<double>* nll);
  // Of a rank without tokens: its part in the collectives.
  absl::Status Attend();
  // `first`: carries come from other ranks; else from carries_.
  absl::Status RunLayer(int64_t layer, Tape& tape, bool first, const Hidden& in,
                        Hidden* out);
  Tensor EmptySummary(int64_t layer) {
    return Tensor::Zeros({mixer(layer).SummarySize(batch())}, DType::kF32,
                         MemoryPart::kCarries);
  }
  // This rank's summary `own` in exchange for those of all, by rank, every seal
  // checked.
  absl::StatusOr<std::vector<Tensor>> Gather(int64_t layer, SealKind kind,
                                             const Tensor& own);
  // The state into this rank's shard.
  absl::Status FoldStates(int64_t layer, const LayerRun& run, Tensor* state);
  // Gives run.state_out its gradient.
  absl::Status FoldGrads(int64_t layer, LayerRun& run);
  absl::StatusOr<std::vector<Carry>> Final();

  LanguageModel& model_;
  const PassRequest& request_;
  Communicator& comm_;
  Communicator& tensors_;
  SealChecks checks_;
  const uint32_t pass_;
  std::vector<ChunkSpan> spans_;  // by rank
  int last_;                      // the last rank with tokens
  ChunkSpan mine_;
  std::optional<ChunkData> data_;
  std::vector<Hidden> inputs_;  // by layer; its Vars are leaves
  std::vector<Carry> carries_;  // in, by layer; undefined: zeros
  std::vector<Carry> final_;    // out, on the last rank if wanted
  std::vector<std::unique_ptr<RecordedLayer>> kept_;  // by layer
  std::unique_ptr<Tape> embedding_tape_;
  Var embedded_;
  Hidden top_;  // after the last layer
};

PrefixPass::PrefixPass(LanguageModel& model, const PassRequest& request,
                       Communicator& sequence, Communicator& tensors,
                       uint32_t pass)
    : model_(model),
      request_(request),
      comm_(sequence),
      tensors_(tensors),
      checks_(sequence.rank()),
      pass_(pass),
      inputs_(model.layers()),
      carries_(model.layers()),
      final_(model.layers()),
      kept_(model.layers()) {
  for (int r = 0; r < comm_.size(); ++r) {
    spans_.push_back(PrefixShard(request.batch.length, comm_.size(), r));
    if (spans_[r].begin < spans_[r].end) last_ = r;
  }
  mine_ = spans_[comm_.rank()];
  if (!empty()) data_.emplace(request.batch, mine_);
}

int64_t PrefixPass::KeptLayers() const {
  const int64_t bytes = model_.TapeBytesPerToken() * batch() *
                        (mine_.end - mine_.begin) / model_.layers();
  const int64_t fit =
      request_.options.tape_memory_budget / std::max<int64_t>(bytes, 1);
  return std::clamp<int64_t>(fit, 1, model_.layers());
}

absl::StatusOr<std::vector<Tensor>> PrefixPass::Gather(int64_t layer,
                                                       SealKind kind,
                                                       const Tensor& own) {
  Stamp stamp = {kind, pass_, layer, comm_.rank(), comm_.rank()};
  const SealedMessage message(tensors_, own.size(), nullptr);
  absl::Status status = message.Pack(own, stamp);
  if (!status.ok()) return status;
  CommLabel label = stamp.Label();
  label.chunk = -1;  // of all ranks
  SpanInfo info{.category = "wait", .name = "gather summaries"};
  info.direction = label.direction;
  info.layer = layer;
  const Span span(info);
  const int64_t size = own.size(), floats = message.bytes() / 4;
  const Device memory = tensors_.memory();
  const Tensor gathered = Tensor::Empty({comm_.size() * floats}, DType::kF32,
                                        MemoryPart::kCarries, memory);
  status = tensors_.AllGather(message.data(), message.bytes(), gathered.data(),
                              label);
  std::vector<Tensor> all;
  for (int r = 0; r < comm_.size() && status.ok(); ++r) {
    const Tensor theirs = gathered.Slice(r * floats, {size});
    const float* seal = theirs.f32() + (floats - kSealFloats);
    stamp.chunk = stamp.sender = r;
    if (memory != Device::kCpu) {
      status = checks_.Add(stamp, theirs, seal);
    } else if (r != comm_.rank()) {
      status = CheckSeal(stamp, comm_.rank(), theirs.f32(), size, seal);
    }
    all.push_back(own.device() == memory
                      ? theirs
                      : Tensor::FromHost(theirs.data(), {size}, DType::kF32,
                                         MemoryPart::kCarries));
  }
  if (!status.ok()) return status;
  return all;
}

absl::Status PrefixPass::FoldStates(int64_t layer, const LayerRun& run,
                                    Tensor* state) {
  LinearCarry& mixer = this->mixer(layer);
  const Carry zeros = Carry::Zeros(model_.carry_spec(layer), batch());
  const Tensor own = EmptySummary(layer);
  // Nobody needs the last shard's.
  if (comm_.rank() != last_) mixer.Summarize(run, own.f32());
  if (comm_.rank() == 0) {
    // What the initial carry becomes at the end of this shard: the others need
    // not know of it.
    const Tensor after =
        (state->defined() ? *state : zeros.field(mixer.state_field())).Clone();
    mixer.Apply(own.f32(), after);
    own.Slice(0, after.shape()).CopyFrom(after);
  }
  const absl::StatusOr<std::vector<Tensor>> all =
      Gather(layer, SealKind::kSummary, own);
  if (!all.ok() || comm_.rank() == 0) return all.status();
  CARRY_CHECK(state->defined());  // else it would start from zeros
  state->CopyFrom((*all)[0].Slice(0, state->shape()));
  for (int r = 1; r < comm_.rank(); ++r) {
    mixer.Apply((*all)[r].f32(), *state);
  }
  return absl::OkStatus();
}

absl::Status PrefixPass::FoldGrads(int64_t layer, LayerRun& run) {
  LinearCarry& mixer = this->mixer(layer);
  const Tensor own = EmptySummary(layer);
  if (comm_.rank() != 0) mixer.SummarizeGrad(run, own.f32());
  const absl::StatusOr<std::vector<Tensor>> all =
      Gather(layer, SealKind::kSummaryGrad, own);
  if (!all.ok() || comm_.rank() == last_) return all.status();
  const Tensor grad = Tensor::Empty(run.state_out.value().shape(), DType::kF32,
                                    MemoryPart::kCarries);
  grad.CopyFrom((*all)[last_].Slice(0, grad.shape()));
  for (int r = last_ - 1; r > comm_.rank(); --r) {
    mixer.Apply((*all)[r].f32(), grad);
  }
  run.state_out.SetGrad(grad);
  return absl::OkStatus();
}

absl::Status PrefixPass::RunLayer(int64_t layer, Tape& tape, bool first,
                                  const Hidden& in, Hidden* out) {
  SpanInfo info{.category = "layer", .name = "layer", .direction = "forward"};
  info.layer = layer;
  info.chunk = comm_.rank();
  const Span span(info);
  LinearCarry& mixer = this->mixer(layer);
  const CarrySpec& spec = model_.carry_spec(layer);
  const size_t halo_field = mixer.halo_field(),
               state_field = mixer.state_field();
  Var normed;
  *out = model_.BeginLayer(tape, layer, in, &normed);
  const std::shared_ptr<LayerRun> run = mixer.Begin(tape, normed, data_->info);

  Carry& carry = carries_[layer];
  const HaloExchange halos(tensors_, checks_, spans_, request_.batch, pass_,
                           layer, spec[halo_field].shape);
  if (first) {
    if (comm_.rank() > 0) {
      carry = Carry::Empty(spec, batch());
    } else if (!request_.initial.empty()) {
      carry = request_.initial[layer];
    }
    absl::Status status =
        halos.Forward(run->halo_source.value(),
                      carry.defined() ? carry.field(halo_field) : Tensor());
    if (!status.ok()) return status;
  }
  Var halo, state;
  if (carry.defined()) {
    halo = Var(carry.field(halo_field), comm_.rank() > 0 && tape.recording());
  }
  tape.Record([=]() { return halos.Backward(run->halo_source, halo); });

  Carry after;
  const bool keep_final = first && request_.want_final && comm_.rank() == last_;
  if (keep_final) final_[layer] = after = Carry::Empty(spec, batch());
  mixer.Enter(tape, *run, halo,
              keep_final ? after.field(halo_field) : Tensor());
  if (first) {
    Tensor buffer = carry.defined() ? carry.field(state_field) : Tensor();
    absl::Status status = FoldStates(layer, *run, &buffer);
    if (!status.ok()) return status;
  }
  if (carry.defined()) state = Var(carry.field(state_field), false);
  mixer.Scan(tape, *run, state,
             keep_final ? after.field(state_field) : Tensor());
  tape.Record([this, layer, run]() { return FoldGrads(layer, *run); });
  out->delta = mixer.Finish(tape, *run);
  return absl::OkStatus();
}

absl::Status PrefixPass::Forward() {
  embedding_tape_ = std::make_unique<Tape>(true);
  embedding_tape_->SetObserver(request_.options.observer);
  Hidden hidden =
      model_.Embed(*embedding_tape_, data_->tokens.as<int32_t>(), data_->info);
  embedded_ = hidden.residual;
  const int64_t first_kept = model_.layers() - KeptLayers();
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const bool kept = l >= first_kept;
    // Without a tape the residual sum is made in place.
    const Tensor& residual = hidden.residual.value();
    Hidden& in = inputs_[l];
    in.residual = Var(kept ? residual : residual.Clone(), true);
    if (hidden.delta.defined()) in.delta = Var(hidden.delta.value(), true);
    absl::Status status;
    if (kept) {
      kept_[l] = std::make_unique<RecordedLayer>();
      RecordedLayer& r = *kept_[l];
      r.tape.SetObserver(request_.options.observer);
      r.in = in;
      status = RunLayer(l, r.tape, true, in, &r.out);
      hidden = r.out;
    } else {
      Tape tape(false);
      tape.SetObserver(request_.options.observer);
      status = RunLayer(l, tape, true, Hidden(hidden), &hidden);
    }
    if (!status.ok()) return status;
  }
  top_.residual = Var(hidden.residual.value(), true);
  top_.delta = Var(hidden.delta.value(), true);
  return absl::OkStatus();
}

absl::Status PrefixPass::Backward(std::vector<double>* nll) {
  Hidden above = std::exchange(top_, {});
  {
    const Span span({.category = "pass", .name = "head"});
    Tape tape(true);
    tape.SetObserver(request_.options.observer);
    const Tensor losses = model_.Loss(tape, above, data_->targets.as<int32_t>(),
                                      request_.options.loss_weight);
    absl::Status status = tape.RunBackward();
    if (status.ok()) status = SumRows(losses, batch(), nll->data());
    if (!status.ok()) return status;
  }
  for (int64_t l = model_.layers() - 1; l >= 0; --l) {
    std::unique_ptr<RecordedLayer> r = std::move(kept_[l]);
    absl::Status status;
    if (r == nullptr) {
      r = std::make_unique<RecordedLayer>();
      r->tape.SetObserver(request_.options.observer);
      r->in = inputs_[l];
      status = RunLayer(l, r->tape, false, r->in, &r->out);
      if (!status.ok()) return status;
    }
    SpanInfo info{
        .category = "layer", .name = "layer", .direction = "backward"};
    info.layer = l;
    info.chunk = comm_.rank();
    const Span span(info);
    inputs_[l] = {};
    r->out.residual.SetGrad(above.residual.grad());
    r->out.delta.SetGrad(above.delta.grad());
    above = r->in;
    r->out = {};
    status = r->tape.RunBackward();
    if (!status.ok()) return status;
    if (request_.options.layer_done) {
      status = request_.options.layer_done(l);
      if (!status.ok()) return status;
    }
  }
  embedded_.SetGrad(above.residual.grad());
  return embedding_tape_->RunBackward();
}

absl::Status PrefixPass::Attend() {
  for (int64_t l = 0; l < model_.layers(); ++l) {
    absl::Status status =
        Gather(l, SealKind::kSummary, EmptySummary(l)).status();
    if (!status.ok()) return status;
  }
  for (int64_t l = model_.layers() - 1; l >= 0; --l) {
    absl::Status status =
        Gather(l, SealKind::kSummaryGrad, EmptySummary(l)).status();
    if (status.ok() && request_.options.layer_done) {
      status = request_.options.layer_done(l);
    }
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Carry>> PrefixPass::Final() {
  if (!request_.want_final || last_ == 0) return std::move(final_);
  if (comm_.rank() != 0 && comm_.rank() != last_) return std::vector<Carry>();
  std::vector<SealedMessage> messages;
  const auto stamp = [this](int64_t layer) {
    return Stamp{SealKind::kFinalCarry, pass_, layer, last_, last_};
  };
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const int tag = static_cast<int>(l);
    const int64_t size = batch() * CarrySize(model_.carry_spec(l));
    SealedMessage& message = messages.emplace_back(comm_, size, nullptr);
    if (comm_.rank() == 0) {
      message.transfer() = comm_.Receive(message.data(), message.bytes(), last_,
                                         tag, stamp(l).Label());
      continue;
    }
    absl::Status status = message.Pack(final_[l].flat(), stamp(l));
    if (!status.ok()) return status;
    message.transfer() =
        comm_.Send(message.data(), message.bytes(), 0, tag, stamp(l).Label());
  }
  for (SealedMessage& message : messages) {
    absl::Status status = message.transfer()->Wait();
    if (!status.ok()) return status;
  }
  if (comm_.rank() != 0) return std::vector<Carry>();
  for (int64_t l = 0; l < model_.layers(); ++l) {
    final_[l] = Carry::Empty(model_.carry_spec(l), batch());
    absl::Status status = messages[l].Unpack(stamp(l), 0, final_[l].flat());
    if (!status.ok()) return status;
  }
  return std::move(final_);
}

absl::StatusOr<PassOutcome> PrefixPass::Run() {
  std::vector<double> sums(batch());
  if (empty()) {
    absl::Status status = Attend();
    if (!status.ok()) return status;
  } else {
    absl::Status status = Forward();
    if (!status.ok()) return status;
    status = Backward(&sums);
    if (!status.ok()) return status;
  }
  absl::Status status = checks_.Finish();
  if (!status.ok()) return status;
  PassOutcome outcome;
  outcome.nll = ByRow(sums, {mine_}, batch(), comm_.size());
  if (!request_.want_final) return outcome;
  absl::StatusOr<std::vector<Carry>> final = Final();
  if (!final.ok()) return final.status();
  if (comm_.rank() == 0) outcome.final = *std::move(final);
  return outcome;
}

}  // namespace

ChunkSpan PrefixShard(int64_t length, int ranks, int rank) {
  const int64_t whole = length / ranks, longer = length % ranks;
  const int64_t begin = rank * whole + std::min<int64_t>(rank, longer);
  return {rank, begin, begin + whole + (rank < longer ? 1 : 0)};
}

absl::StatusOr<PassOutcome> RunPrefixPass(LanguageModel& model,
                                          const PassRequest& request,
                                          Communicator& sequence,
                                          Communicator& tensors,
                                          uint32_t pass) {
  CARRY_CHECK(sequence.size() > 1 && request.batch.length > 0);
  for (int64_t l = 0; l < model.layers(); ++l) {
    if (model.mixer(l).linear_carry() == nullptr) {
      return absl::InvalidArgumentError(
          "parallel.schedule is PREFIX, but this model's mixer has no summary "
          "of a shard; set parallel.schedule to WAVEFRONT");
    }
  }
  return PrefixPass(model, request, sequence, tensors, pass).Run();
}

}  // namespace carry
