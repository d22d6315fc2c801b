#include "parallel/prefix.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "parallel/halo.h"

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
             Communicator& sequence);
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
  absl::Status Gather(int64_t layer, bool forward,
                      const std::vector<float>& own, std::vector<float>* all);
  // The state into this rank's shard.
  absl::Status FoldStates(int64_t layer, const LayerRun& run, Tensor* state);
  // Gives run.state_out its gradient.
  absl::Status FoldGrads(int64_t layer, LayerRun& run);
  absl::StatusOr<std::vector<Carry>> Final();

  LanguageModel& model_;
  const PassRequest& request_;
  Communicator& comm_;
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
                       Communicator& sequence)
    : model_(model),
      request_(request),
      comm_(sequence),
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

absl::Status PrefixPass::Gather(int64_t layer, bool forward,
                                const std::vector<float>& own,
                                std::vector<float>* all) {
  all->resize(own.size() * comm_.size());
  return comm_.AllGather(
      own.data(), static_cast<int64_t>(own.size() * sizeof(float)), all->data(),
      {forward ? "summary" : "gradient summary", layer, -1,
       forward ? "forward" : "backward"});
}

absl::Status PrefixPass::FoldStates(int64_t layer, const LayerRun& run,
                                    Tensor* state) {
  LinearCarry& mixer = this->mixer(layer);
  const int64_t size = mixer.SummarySize(batch());
  const Carry zeros = Carry::Zeros(model_.carry_spec(layer), batch());
  std::vector<float> own(size), all;
  // Nobody needs the last shard's.
  if (comm_.rank() != last_) mixer.Summarize(run, own.data());
  if (comm_.rank() == 0) {
    // What the initial carry becomes at the end of this shard: the others need
    // not know of it.
    const Tensor after =
        (state->defined() ? *state : zeros.field(mixer.state_field())).Clone();
    mixer.Apply(own.data(), after);
    std::copy_n(after.f32(), after.size(), own.data());
  }
  absl::Status status = Gather(layer, true, own, &all);
  if (!status.ok() || comm_.rank() == 0) return status;
  std::copy_n(all.data(), state->size(), state->f32());
  for (int r = 1; r < comm_.rank(); ++r) {
    mixer.Apply(all.data() + r * size, *state);
  }
  return absl::OkStatus();
}

absl::Status PrefixPass::FoldGrads(int64_t layer, LayerRun& run) {
  LinearCarry& mixer = this->mixer(layer);
  const int64_t size = mixer.SummarySize(batch());
  std::vector<float> own(size), all;
  if (comm_.rank() != 0) mixer.SummarizeGrad(run, own.data());
  absl::Status status = Gather(layer, false, own, &all);
  if (!status.ok() || comm_.rank() == last_) return status;
  const Tensor grad = Tensor::Empty(run.state_out.value().shape(), DType::kF32,
                                    MemoryPart::kCarries);
  std::copy_n(all.data() + last_ * size, grad.size(), grad.f32());
  for (int r = last_ - 1; r > comm_.rank(); --r) {
    mixer.Apply(all.data() + r * size, grad);
  }
  run.state_out.SetGrad(grad);
  return absl::OkStatus();
}

absl::Status PrefixPass::RunLayer(int64_t layer, Tape& tape, bool first,
                                  const Hidden& in, Hidden* out) {
  LinearCarry& mixer = this->mixer(layer);
  const CarrySpec& spec = model_.carry_spec(layer);
  const size_t halo_field = mixer.halo_field(),
               state_field = mixer.state_field();
  Var normed;
  *out = model_.BeginLayer(tape, layer, in, &normed);
  const std::shared_ptr<LayerRun> run = mixer.Begin(tape, normed, data_->info);

  Carry& carry = carries_[layer];
  const HaloExchange halos(comm_, spans_, request_.batch, layer,
                           spec[halo_field].shape);
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
      model_.Embed(*embedding_tape_, data_->tokens.data(), data_->info);
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
    Tape tape(true);
    tape.SetObserver(request_.options.observer);
    SumRows(model_.Loss(tape, above, data_->targets.data(),
                        request_.options.loss_weight),
            batch(), nll->data());
    absl::Status status = tape.RunBackward();
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
  std::vector<float> all;
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const std::vector<float> own(mixer(l).SummarySize(batch()));
    absl::Status status = Gather(l, true, own, &all);
    if (!status.ok()) return status;
  }
  for (int64_t l = model_.layers() - 1; l >= 0; --l) {
    const std::vector<float> own(mixer(l).SummarySize(batch()));
    absl::Status status = Gather(l, false, own, &all);
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
  std::vector<std::unique_ptr<Transfer>> transfers;
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const CommLabel label = {"final carry", l, -1, "forward"};
    const int tag = static_cast<int>(l);
    if (comm_.rank() == 0) {
      final_[l] = Carry::Empty(model_.carry_spec(l), batch());
    }
    const Tensor& flat = final_[l].flat();
    transfers.push_back(
        comm_.rank() == 0
            ? comm_.Receive(flat.data(), flat.bytes(), last_, tag, label)
            : comm_.Send(flat.data(), flat.bytes(), 0, tag, label));
  }
  for (auto& transfer : transfers) {
    absl::Status status = transfer->Wait();
    if (!status.ok()) return status;
  }
  if (comm_.rank() != 0) return std::vector<Carry>();
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
                                          Communicator& sequence) {
  CARRY_CHECK(sequence.size() > 1 && request.batch.length > 0);
  for (int64_t l = 0; l < model.layers(); ++l) {
    if (model.mixer(l).linear_carry() == nullptr) {
      return absl::InvalidArgumentError(
          "parallel.schedule is PREFIX, but this model's mixer has no summary "
          "of a shard; set parallel.schedule to WAVEFRONT");
    }
  }
  return PrefixPass(model, request, sequence).Run();
}

}  // namespace carry
