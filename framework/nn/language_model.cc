#include "framework/nn/language_model.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "framework/ops/embedding.h"
#include "framework/ops/linear_cross_entropy.h"
#include "framework/ops/rms_norm.h"
#include "kernels/check.h"
#include "recipes/rules.h"

namespace carry {
namespace {

// What Mamba derives from other fields, and pairs that can contradict.
absl::Status ResolveMamba(int64_t hidden, config::Mamba* m,
                          std::string* bad_field) {
  if (m->time_step_rank() == 0) m->set_time_step_rank((hidden + 15) / 16);
  auto bad = [&](const char* field, double value) {
    const std::string path = absl::StrCat("model.mamba.", field);
    if (bad_field != nullptr) *bad_field = path;
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is ", value, ", more than time_step_max, ",
                     m->time_step_max(), "; lower it"));
  };
  if (m->time_step_min() > m->time_step_max()) {
    return bad("time_step_min", m->time_step_min());
  }
  if (m->time_step_floor() > m->time_step_max()) {
    return bad("time_step_floor", m->time_step_floor());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ResolveModel(config::Model* model, std::string* bad_field) {
  if (model->mixer_case() == config::Model::MIXER_NOT_SET) {
    model->mutable_mamba();
  }
  absl::Status status = ApplyRules(model, "model.", bad_field);
  if (!status.ok()) return status;
  if (!model->has_vocab_size()) model->set_vocab_size(0);
  return ResolveMamba(model->hidden_size(), model->mutable_mamba(), bad_field);
}

LanguageModel::LanguageModel(const config::Model& model, DType activations)
    : model_(model), activations_(activations) {
  CARRY_CHECK(model.vocab_size() > 0);
  const int64_t dim = model.hidden_size();
  const Shape table = {model.vocab_size(), dim};
  const Initializer normal = NormalInit(model.initializer_range());
  store_.BeginBucket();
  embedding_ = store_.Add("backbone.embeddings.weight", table, true, normal);
  for (int64_t l = 0; l < model.num_layers(); ++l) {
    const std::string prefix = absl::StrCat("backbone.layers.", l, ".");
    store_.BeginBucket();
    norms_.push_back(
        store_.Add(prefix + "norm.weight", {dim}, false, ConstantInit(1)));
    mixers_.push_back(MakeMixer(model, prefix + "mixer.", store_));
  }
  store_.BeginBucket();
  norm_f_ = store_.Add("backbone.norm_f.weight", {dim}, false, ConstantInit(1));
  if (!model.tie_embeddings()) {
    head_ = store_.Add("lm_head.weight", table, true, normal);
  }
  store_.EndBuckets();
}

LanguageModel::Hidden LanguageModel::Embed(Tape& tape, const int32_t* tokens,
                                           const ChunkInfo& chunk) {
  tape.SetScope("backbone.");
  Hidden hidden;
  hidden.residual =
      Embedding(tape, tokens, chunk.batch, chunk.time, *embedding_);
  tape.Observe("embeddings", hidden.residual);
  return hidden;
}

LanguageModel::Hidden LanguageModel::BeginLayer(Tape& tape, int64_t layer,
                                                const Hidden& in, Var* normed) {
  tape.SetScope(absl::StrCat("backbone.layers.", layer, "."));
  const RmsNormOut norm =
      RmsNorm(tape, in.residual, in.delta, *norms_[layer],
              static_cast<float>(model_.norm_epsilon()), activations_);
  tape.Observe("norm", norm.normed);
  Hidden hidden;
  hidden.residual = norm.sum;
  *normed = norm.normed;
  return hidden;
}

LanguageModel::Hidden LanguageModel::Layer(
    Tape& tape, int64_t layer, const Hidden& in, const ChunkInfo& chunk,
    const CarryVars& carry_in, const Carry& out, CarryVars* carry_out) {
  Var normed;
  Hidden hidden = BeginLayer(tape, layer, in, &normed);
  hidden.delta =
      mixers_[layer]->Forward(tape, normed, chunk, carry_in, out, carry_out);
  return hidden;
}

Tensor LanguageModel::Loss(Tape& tape, const Hidden& in, const int32_t* targets,
                           float loss_weight) {
  tape.SetScope("backbone.");
  const RmsNormOut norm =
      RmsNorm(tape, in.residual, in.delta, *norm_f_,
              static_cast<float>(model_.norm_epsilon()), activations_);
  tape.Observe("norm_f", norm.normed);
  return LinearCrossEntropy(tape, norm.normed, head(), targets, loss_weight);
}

Tensor LanguageModel::Logits(const Hidden& in, bool last_only) {
  Tape tape(false);
  const RmsNormOut norm =
      RmsNorm(tape, in.residual, in.delta, *norm_f_,
              static_cast<float>(model_.norm_epsilon()), activations_);
  Tensor x = norm.normed.value();
  const int64_t batch = x.dim(0), time = x.dim(1), dim = x.dim(2);
  int64_t steps = time;
  if (last_only && time > 1) {
    const Tensor last = Tensor::Empty({batch, 1, dim}, x.dtype());
    for (int64_t b = 0; b < batch; ++b) {
      last.Rows(b, 1).CopyFrom(x.Rows(b * time + time - 1, 1));
    }
    x = last;
    steps = 1;
  }
  Tensor logits =
      Tensor::Empty({batch, steps, model_.vocab_size()}, DType::kF32);
  x.backend().MatMul(x.view(), head().Packed(true, activations_, batch * steps),
                     /*transpose=*/true, logits.view(), Write::kOverwrite,
                     nullptr);
  return logits;
}

int64_t LanguageModel::NumParameters() const {
  int64_t n = 0;
  for (const auto& parameter : store_.parameters()) n += parameter->size();
  return n;
}

int64_t LanguageModel::TapeBytesPerToken() const {
  const int64_t dim = model_.hidden_size();
  // Embedding; per block the residual sum, its rms and the normed input; the
  // final norm and the head's gradient.
  int64_t bytes = dim * 4;
  for (const auto& mixer : mixers_) {
    bytes += dim * 4 + 4 + dim * SizeOf(activations_) +
             mixer->TapeBytesPerToken(activations_);
  }
  return bytes + dim * 4 + 4 + 2 * dim * SizeOf(activations_);
}

int64_t LanguageModel::MatMulFlopsPerToken() const {
  int64_t flops = 2 * model_.vocab_size() * model_.hidden_size();
  for (const auto& mixer : mixers_) flops += mixer->MatMulFlopsPerToken();
  return flops;
}

}  // namespace carry
