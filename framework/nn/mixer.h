// The seam that every sequence mixer fills.
//
//   y, carry' = mixer(x, carry)        x, y [B, T, D] for any T >= 1
//
// A mixer is single-device code: it knows nothing of chunks before or after
// its own, of ranks, or of schedules. Generation (T = 1), prefill, packed
// documents, exact chunked gradients and sequence parallelism all come from
// this one function.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "framework/nn/carry.h"
#include "framework/parameter.h"
#include "framework/tape.h"
#include "recipes/schema/model.pb.h"

namespace carry {

// The tokens that run at once.
struct ChunkInfo {
  int64_t batch = 0;     // B
  int64_t time = 0;      // T
  int64_t position = 0;  // index of the chunk's first token in its sequence
  // [B, T], 1 where a document starts; outlives the tape. nullptr: nowhere.
  const uint8_t* document_start = nullptr;
};

// What a mixer offers if its state is a linear recurrence, state_out =
// P state_in + s, so that shards of a sequence can find their states in without
// waiting for each other.
//
// The four parts are its Forward, cut where values of other shards enter. The
// carry has two fields: a halo, the last W rows of `halo_source`, and a state.
// In backward, what the caller records on the tape between two parts runs
// between their gradients.
//
// A summary of B sequences is SummarySize(B) floats, for (P, s) of the state or
// (P, r) of its gradient, g_in = P g_out + r: both are applied alike.
class LinearCarry {
 public:
  // A run of the layer on one shard.
  struct Run {
    virtual ~Run() = default;
    Var halo_source;          // [B, T, E], after Begin
    Var halo_out, state_out;  // the carry out: [B, E, W], [B, ...]
  };

  virtual ~LinearCarry() = default;

  // Places in carry_spec(); the halo's shape there is [E, W].
  virtual size_t halo_field() const = 0;
  virtual size_t state_field() const = 0;

  // To the source of the halo.
  virtual std::unique_ptr<Run> Begin(Tape& tape, const Var& x,
                                     const ChunkInfo& chunk) = 0;
  // `halo` fp32 [B, E, W], oldest first, or undefined: zeros. The carry out
  // goes into `out`, which may be undefined.
  virtual void Enter(Tape& tape, Run& run, const Var& halo, Tensor out) = 0;
  // The recurrence; `state` fp32 or undefined: zeros.
  virtual void Scan(Tape& tape, Run& run, const Var& state, Tensor out) = 0;
  virtual Var Finish(Tape& tape, Run& run) = 0;

  virtual int64_t SummarySize(int64_t batch) const = 0;
  // After Enter.
  virtual void Summarize(const Run& run, float* summary) = 0;
  // In backward, after Finish's gradients and before Scan's.
  virtual void SummarizeGrad(const Run& run, float* summary) = 0;
  // state = P state + s.
  virtual void Apply(const float* summary, const Tensor& state) = 0;
};

class Mixer {
 public:
  virtual ~Mixer() = default;

  virtual const CarrySpec& carry_spec() const = 0;

  // carry_in: empty (zeros) or one Var a field. The carry out is written to
  // `out` (Empty(carry_spec(), B)) and returned in `carry_out`.
  virtual Var Forward(Tape& tape, const Var& x, const ChunkInfo& chunk,
                      const CarryVars& carry_in, const Carry& out,
                      CarryVars* carry_out) = 0;
  // nullptr: a later token's carry cannot be had without running the earlier.
  virtual LinearCarry* linear_carry() { return nullptr; }

  // Bytes that the tape keeps for one token of one sequence, about.
  virtual int64_t TapeBytesPerToken(DType activations) const = 0;
  // Multiplications and additions of matrix products for one token's forward.
  virtual int64_t MatMulFlopsPerToken() const = 0;
};

// Makes the mixer that the model's `mixer` oneof names and registers its
// parameters as prefix + "in_proj.weight" and so on.
// REQUIRES a resolved model (ResolveModel).
std::unique_ptr<Mixer> MakeMixer(const config::Model& model,
                                 const std::string& prefix,
                                 ParameterStore& store);

}  // namespace carry
