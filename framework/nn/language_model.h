// A language model: embedding, a stack of blocks, a tied or untied head.
//
//   s_0 = embedding(tokens), delta_0 = none
//   s_{l+1} = s_l + delta_l;  delta_{l+1} = mixer_l(RMSNorm_l(s_{l+1}))
//   logits = head(RMSNorm_f(s_L + delta_L))
//
// The residual stream s is fp32 whatever the activations are. Parameter names
// are those of Hugging Face's MambaForCausalLM.
//
// The pieces are public so that a driver may run chunk by chunk or layer by
// layer; nothing here knows of chunks, carries' origin, or ranks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/nn/mixer.h"
#include "framework/parameter.h"
#include "recipes/schema/model.pb.h"

namespace carry {

// Fills every field with the schema's default (recipes/rules.h) or the size
// derived from others; vocab_size may stay 0, not known yet. An error names the
// field, also in `bad_field` ("model.mamba.expand") if that is not null, its
// value, and what would be right.
absl::Status ResolveModel(config::Model* model,
                          std::string* bad_field = nullptr);

class LanguageModel {
 public:
  // What flows from block to block.
  struct Hidden {
    Var residual;  // fp32 [B, T, D]
    Var delta;     // activations' dtype; undefined before the first block
  };

  // REQUIRES a resolved model with a vocab_size. Knows every shape, but holds
  // no memory yet.
  LanguageModel(const config::Model& model, DType activations);
  // Allocates the parameters and initialises them from `seed`. Call once.
  void Allocate(uint64_t seed, bool gradients) {
    store_.Allocate(seed, gradients);
  }

  Hidden Embed(Tape& tape, const int32_t* tokens, const ChunkInfo& chunk);
  Hidden Layer(Tape& tape, int64_t layer, const Hidden& in,
               const ChunkInfo& chunk, const CarryVars& carry_in,
               const Carry& out, CarryVars* carry_out);
  // Layer's two halves: the residual sum of `in` (in the result; its delta is
  // the mixer's to fill) and what goes into the mixer.
  Hidden BeginLayer(Tape& tape, int64_t layer, const Hidden& in, Var* normed);
  Mixer& mixer(int64_t layer) { return *mixers_[layer]; }
  // nll fp32 [B*T] for targets [B*T] (-1: does not count). With a recording
  // tape this also starts the gradient of loss_weight * sum(nll).
  Tensor Loss(Tape& tape, const Hidden& in, const int32_t* targets,
              float loss_weight);
  // fp32 [B, T, V], or [B, 1, V] for the last position only.
  Tensor Logits(const Hidden& in, bool last_only);

  const config::Model& config() const { return model_; }
  DType activations() const { return activations_; }
  int64_t layers() const { return static_cast<int64_t>(mixers_.size()); }
  const CarrySpec& carry_spec(int64_t layer) const {
    return mixers_[layer]->carry_spec();
  }
  ParameterStore& parameters() { return store_; }
  const ParameterStore& parameters() const { return store_; }

  // Buckets of parameters(): the embedding, each layer, the final norm (and an
  // untied head). In backward they are complete from the last to the first.
  static int64_t LayerBucket(int64_t layer) { return 1 + layer; }

  // Weights and biases, without what the arena pads.
  int64_t NumParameters() const;
  int64_t TapeBytesPerToken() const;
  // Of matrix products, one token's forward; backward takes twice that.
  int64_t MatMulFlopsPerToken() const;

 private:
  Parameter& head() { return head_ != nullptr ? *head_ : *embedding_; }

  config::Model model_;
  DType activations_;
  ParameterStore store_;
  Parameter* embedding_;
  Parameter* norm_f_;
  Parameter* head_ = nullptr;  // nullptr: tied
  std::vector<Parameter*> norms_;
  std::vector<std::unique_ptr<Mixer>> mixers_;
};

}  // namespace carry
