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

class Mixer {
 public:
  virtual ~Mixer() = default;

  virtual const CarrySpec& carry_spec() const = 0;

  // carry_in: empty (zeros) or one Var a field. The carry out is written to
  // `out` (Empty(carry_spec(), B)) and returned in `carry_out`.
  virtual Var Forward(Tape& tape, const Var& x, const ChunkInfo& chunk,
                      const CarryVars& carry_in, const Carry& out,
                      CarryVars* carry_out) = 0;

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
