// The PREFIX schedule: rank r holds the r-th contiguous shard of a sequence and
// all ranks work on the same layer at once.
//
//   forward    in_proj | halo from the left | conv, x_proj, dt_proj |
//              summary, gathered, those on the left folded into the state in |
//              the one true scan | out_proj
//   backward   the layer again from its stored input and carry; then the
//              mirror image: the gradients' summaries are gathered and those on
//              the right folded; gradients of halos go back where they came
//              from
//
// The fold is in rank order, so every run of a mesh has the same bits; they
// differ from one rank's by fp32 rounding. A rank keeps each layer's input
// (residual and delta, B T D) and carry in, and one layer's tape, or as many as
// options.tape_memory_budget holds. Needs LinearCarry of every mixer.
//
// Messages: README.md. Every one is sealed and has a label with the layer and
// direction.
#pragma once

#include "framework/train/distribution.h"
#include "parallel/communicator.h"

namespace carry {

// Tokens of rank `rank`: lengths differ by at most one, the longer come first.
// Ranks at and beyond `length` have none.
ChunkSpan PrefixShard(int64_t length, int ranks, int rank);

// Loss and gradients of this rank's shard of request.batch. Collective over
// `sequence`, which has more than one rank. `pass` is for the seals of messages
// (parallel/seal.h) and the same on all ranks. `nll` has a piece a rank;
// `initial` is read and `final` returned on rank 0. kInvalidArgument if a mixer
// has no LinearCarry.
//
// Halos and summaries go through `tensors`, which is `sequence` or one of the
// same ranks with messages in the memory of tensors; final carries, once a
// pass, through `sequence`, whose messages are in host memory.
absl::StatusOr<PassOutcome> RunPrefixPass(LanguageModel& model,
                                          const PassRequest& request,
                                          Communicator& sequence,
                                          Communicator& tensors, uint32_t pass);

}  // namespace carry
