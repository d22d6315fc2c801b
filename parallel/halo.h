// Halos of contiguous shards: the W inputs before a shard's first token, from
// the ranks on its left. A shard shorter than W makes its right neighbours take
// theirs from several ranks; before the sequence lies the initial carry, on
// rank 0. Inputs of an earlier document are zero.
//
// A message is [B][inputs][E] fp32 and its seal (parallel/seal.h), from each
// rank to each that needs some of its inputs; its gradient goes the way back.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "framework/tape.h"
#include "framework/train/streamed_pass.h"
#include "parallel/communicator.h"
#include "parallel/sealed_message.h"

namespace carry {

class HaloExchange {
 public:
  // One layer's, in a pass. `spans` by rank, those
  // without tokens last; this rank has some. `shape` is [E, W]. Everything
  // passed by reference is to outlive it.
  HaloExchange(Communicator& comm, SealChecks& checks,
               const std::vector<ChunkSpan>& spans, const SequenceBatch& batch,
               uint32_t pass, int64_t layer, const Shape& shape)
      : comm_(comm),
        checks_(&checks),
        spans_(spans),
        batch_(batch),
        pass_(pass),
        layer_(layer),
        channels_(shape[0]),
        width_(shape[1]) {}

  // `source` [B, T, E]: this shard's inputs. `halo` [B, E, W], oldest first: on
  // rank 0 the initial carry or undefined (zeros), elsewhere filled.
  absl::Status Forward(const Tensor& source, const Tensor& halo) const;
  // Sends the gradient of `halo` back (it has none on rank 0) and adds what
  // comes from the right to that of `source`.
  absl::Status Backward(const Var& source, const Var& halo) const;

 private:
  struct Messages;
  Stamp StampOf(SealKind kind, int sender) const {
    return {kind, pass_, layer_, sender, sender};
  }
  // Inputs of rank `from` in the halo of rank `to`, by position in the
  // sequence; rank 0 also has those before it, unless `tokens_only`.
  Part Inputs(int from, int to, bool tokens_only) const;
  bool SameDocument(int64_t row, int64_t position, int64_t shard_begin) const;
  // [B, inputs]: those of the document that a shard begins in; undefined: all.
  Tensor KeepMask(Part inputs, int64_t shard_begin) const;
  void Copy(const StridedView& from, const StridedView& to, int64_t inputs,
            const Tensor& keep, Write write) const;

  Communicator& comm_;
  SealChecks* const checks_;
  const std::vector<ChunkSpan>& spans_;
  const SequenceBatch& batch_;
  const uint32_t pass_;
  const int64_t layer_, channels_, width_;
};

}  // namespace carry
