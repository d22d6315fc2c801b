// Loss and exact gradients of long sequences in the memory of one chunk.
//
// 1. Forward: the chunks in order, no tape, keeping the carries at chunk
//    edges. The vocabulary head is not run.
// 2. Backward: from the last chunk to the first, each chunk runs again with a
//    tape from its stored carry, with its loss; the gradient of its carry out
//    comes from the chunk on its right, that of its carry in goes left.
//
// The newest chunks may keep the tape of their first run, which saves their
// second: one always does, more while `tape_memory_budget` lasts. The result
// has the same bits either way.
//
// This is the full gradient of the whole sequence, not truncated
// back-propagation. Memory: one chunk's tape (or the budget), plus the edge
// carries, chunks * layers * B * CarrySize * 4 bytes.
//
// Several batches may go through together, chunk by chunk in turn, so that a
// rank has one to work on while another waits for its neighbours; each keeps
// its own edge carries, the tapes are shared.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/nn/language_model.h"
#include "framework/train/carry_exchange.h"

namespace carry {

// Sequences that run at once; arrays [B, L] with `stride` elements a row.
struct SequenceBatch {
  int64_t batch = 0;   // B
  int64_t length = 0;  // L
  int64_t stride = 0;
  const int32_t* tokens = nullptr;
  const int32_t* targets = nullptr;         // -1: no target
  const uint8_t* document_start = nullptr;  // or nullptr: none
};

// Tokens [begin, end) of every sequence.
struct ChunkSpan {
  int64_t index = 0;
  int64_t begin = 0;
  int64_t end = 0;
};
// All chunks of `chunk_length` tokens; the last may be short. 0: one chunk.
std::vector<ChunkSpan> CutIntoChunks(int64_t length, int64_t chunk_length);

// One chunk's tokens, dense, on the default device. `info` points into it: it
// must live while a tape needs it.
struct ChunkData {
  ChunkData() = default;
  ChunkData(const SequenceBatch& batch, const ChunkSpan& span);
  ChunkInfo info;
  Tensor tokens, targets;  // int32 [B, T]; targets may be undefined
  Tensor document_start;   // uint8 [B, T], undefined: none
};

// sums[b] = sum of nll [B, T] over t, in order. Waits for the device.
absl::Status SumRows(const Tensor& nll, int64_t batch, double* sums);

struct StreamedPassOptions {
  float loss_weight = 1;
  int64_t tape_memory_budget = 0;
  Tape::Observer observer;  // sees every named tensor and its gradient
  // Called when a layer's parameters have all gradients of this pass, last
  // layer first.
  std::function<absl::Status(int64_t layer)> layer_done;
};

// Runs `spans` (in order; on one rank of several, the rank's own) of `batch`
// through the model, adds gradients to its parameters, and returns the sums of
// nll over targets, [spans][B], each in fp64 and in order.
absl::StatusOr<std::vector<double>> RunStreamedPass(
    LanguageModel& model, const SequenceBatch& batch,
    const std::vector<ChunkSpan>& spans, CarryExchange& exchange,
    const StreamedPassOptions& options);

struct StreamedPass {
  SequenceBatch batch;
  CarryExchange* exchange;
};
// The same for several batches of equal length at once; sums by pass.
// `layer_done` is called in the last backward of all. `tapes` and `hold` are
// those of StreamOrder. Ranks that share the sequences must pass the same
// `tapes`, and hold them only where the next does: one that held more than its
// left neighbour would wait for passes that start there only after its
// backward.
absl::StatusOr<std::vector<std::vector<double>>> RunStreamedPasses(
    LanguageModel& model, const std::vector<StreamedPass>& passes,
    const std::vector<ChunkSpan>& spans, int64_t tapes, bool hold,
    const StreamedPassOptions& options);

// How many of a step's `passes` run through `ranks` ranks together, which take
// the chunks in turn. One pass keeps them busy only while ranks <= layers, and
// idle for about ranks - 1 layers where forward turns into backward; so many as
// to hide both, and no more, for each keeps its own edge carries.
int64_t PassesInFlight(int64_t passes, int64_t ranks, int64_t layers);
constexpr int64_t kMaxPassesInFlight = 64;

// What a rank does, one after the other, with each span of each pass.
struct StreamStep {
  enum Kind {
    kForward,   // first run, no tape
    kRecord,    // first run, with a tape
    kRerun,     // second run, with a tape
    kBackward,  // from the tape
  };
  Kind kind;
  int64_t pass, span;
  bool operator==(const StreamStep&) const = default;
};
// At most `tapes` >= 1 chunks hold a tape at any time. Where they do not
// suffice for one of each pass, the newest span's passes take turns, each
// running backward before another gets its tape (`hold`), or run forward twice
// like all others: the first waits for the neighbours' answer, the second
// computes. Backward is in one order, whatever `tapes` and `hold` are: from the
// last span to the first, and for each span from the first pass to the last.
std::vector<StreamStep> StreamOrder(int64_t spans, int64_t passes,
                                    int64_t tapes, bool hold);
// Which is sooner done: a rank that has the sequence's last chunk waits for
// nobody; others wait for their right neighbours' layers.
bool HoldTapes(bool has_last_chunk, int64_t ranks, int64_t layers);

// Newest chunks that keep their tapes under the budget; at least 1.
// `chunk_length` is that of a whole chunk.
int64_t KeptTapes(const LanguageModel& model, int64_t batch,
                  int64_t chunk_length, int64_t tape_memory_budget);

// Forward only, chunk by chunk, no gradients: nll fp32 [T] of each token in
// `span`, from `carries` (a carry a layer, or empty: zeros), which is replaced
// by the carries after the span.
Tensor ForwardLoss(LanguageModel& model, const SequenceBatch& batch,
                   const ChunkSpan& span, std::vector<Carry>& carries);

// Hidden state after all layers, carries as above; the logits are model.Logits
// of it.
LanguageModel::Hidden ForwardTokens(LanguageModel& model, const ChunkData& data,
                                    std::vector<Carry>& carries);

}  // namespace carry
