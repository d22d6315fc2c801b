// The Mamba mixer, arXiv 2312.00752 section 3.4, figure 3.
//
//   [x, z]      = in_proj(input)                       [B, T, E] each
//   u           = silu(causal_conv1d(x))               carry: conv
//   [r, B, C]   = x_proj(u)                            R + N + N columns
//   dt          = softplus(dt_proj(r))
//   y           = selective_scan(u, dt, A, B, C, D) silu(z)   carry: state
//   output      = out_proj(y)
//
// Carry per sequence: conv [E, K-1], state [E, N].
#pragma once

#include <string>

#include "framework/nn/mixer.h"

namespace carry {

class MambaMixer : public Mixer, public LinearCarry {
 public:
  MambaMixer(const config::Model& model, const std::string& prefix,
             ParameterStore& store);

  const CarrySpec& carry_spec() const override { return spec_; }
  Var Forward(Tape& tape, const Var& x, const ChunkInfo& chunk,
              const CarryVars& carry_in, const Carry& out,
              CarryVars* carry_out) override;
  LinearCarry* linear_carry() override { return this; }
  int64_t TapeBytesPerToken(DType activations) const override;
  int64_t MatMulFlopsPerToken() const override;

  // LinearCarry. A summary is s [B, E, N], then the sum of dt [B, E]
  // (kernels/selective_scan_summary.h).
  size_t halo_field() const override { return 0; }
  size_t state_field() const override { return 1; }
  std::unique_ptr<Run> Begin(Tape& tape, const Var& x,
                             const ChunkInfo& chunk) override;
  void Enter(Tape& tape, Run& run, const Var& halo, Tensor out) override;
  void Scan(Tape& tape, Run& run, const Var& state, Tensor out) override;
  Var Finish(Tape& tape, Run& run) override;
  int64_t SummarySize(int64_t batch) const override {
    return batch * inner_ * (states_ + 1);
  }
  void Summarize(const Run& run, float* summary) override;
  void SummarizeGrad(const Run& run, float* summary) override;
  void Apply(const float* summary, const Tensor& state) override;

 private:
  int64_t hidden_, inner_, states_, taps_, rank_;  // D, E, N, K, R
  CarrySpec spec_;
  Parameter* in_proj_;
  Parameter* in_proj_bias_ = nullptr;
  Parameter* conv_;
  Parameter* conv_bias_ = nullptr;
  Parameter* x_proj_;
  Parameter* dt_proj_;
  Parameter* dt_bias_;
  Parameter* a_log_;
  Parameter* d_;
  Parameter* out_proj_;
  Parameter* out_proj_bias_ = nullptr;
};

}  // namespace carry
