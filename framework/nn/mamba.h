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

class MambaMixer : public Mixer {
 public:
  MambaMixer(const config::Model& model, const std::string& prefix,
             ParameterStore& store);

  const CarrySpec& carry_spec() const override { return spec_; }
  Var Forward(Tape& tape, const Var& x, const ChunkInfo& chunk,
              const CarryVars& carry_in, const Carry& out,
              CarryVars* carry_out) override;
  int64_t TapeBytesPerToken(DType activations) const override;
  int64_t MatMulFlopsPerToken() const override;

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
