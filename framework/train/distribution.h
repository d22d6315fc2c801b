// What a training step asks of the ranks that share it.
//
// The framework knows no rank: it knows this interface, and one rank alone
// (SingleRank). parallel/ implements it for a mesh of ranks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/nn/language_model.h"
#include "framework/train/streamed_pass.h"

namespace carry {

// One pass over some sequences of a step.
struct PassRequest {
  SequenceBatch batch;       // this rank's rows, all of their tokens
  int64_t chunk_length = 0;  // 0: one chunk
  StreamedPassOptions options;
  // Carries into the first chunk, by layer, or empty: zeros. Only read by the
  // rank that runs the first chunk.
  std::vector<Carry> initial;
  bool want_final = false;
};

struct PassOutcome {
  // [rows][Pieces()]: sum of nll over a row's piece; zero for those of others.
  std::vector<double> nll;
  // If wanted: carries out of the last chunk, by layer, where the next pass
  // over these rows will read `initial`; empty elsewhere.
  std::vector<Carry> final;
};

class Distribution {
 public:
  virtual ~Distribution() = default;

  virtual int rank() const = 0;  // rank 0 writes files and talks to the user
  virtual int size() const = 0;
  // Ranks that share this machine's memory.
  virtual int local_size() const { return 1; }
  // Rows of a step's batch that this rank works on; may be empty.
  virtual Range Rows(int64_t batch_size) const = 0;
  // The part of each bucket whose optimizer state this rank keeps.
  virtual std::vector<Range> Shards(
      const std::vector<Range>& buckets) const = 0;

  // Into how many pieces a sequence's loss is summed: its chunks, usually.
  virtual int64_t Pieces(int64_t length, int64_t chunk_length) const = 0;

  // Loss and gradients of this rank's part; gradients are added to the model.
  // All ranks of a row's sequence call it for the same passes in one order.
  virtual absl::StatusOr<PassOutcome> RunPass(LanguageModel& model,
                                              const PassRequest& request) = 0;
  // Several passes of a step, in this order or interleaved; they differ in
  // their rows alone. Only the last one's layer_done is called.
  virtual absl::StatusOr<std::vector<PassOutcome>> RunPasses(
      LanguageModel& model, const std::vector<PassRequest>& requests);
  // Sums over ranks in rank order, the same bits on each.
  virtual absl::Status Sum(std::vector<double>& values) = 0;

  // Begins to sum a bucket's gradients over ranks, zeros where this rank wrote
  // none (ParameterStore::CompleteGrads), which goes on while other work is
  // done. Every rank starts every bucket, last one first.
  virtual absl::Status StartReduce(ParameterStore& store, int64_t bucket) = 0;
  // Afterwards this rank's shards of the gradients hold the sums of all
  // buckets; the rest is undefined.
  virtual absl::Status FinishReduce(ParameterStore& store) = 0;
  // Every rank's shards of the weights reach all ranks.
  virtual absl::Status GatherParameters(ParameterStore& store) = 0;

  // `bytes` of rank 0 reach all. `what` they are is for errors; a literal.
  virtual absl::Status Broadcast(const char* what, std::string& bytes) = 0;
  // The strings of all ranks, by rank, on every rank.
  virtual absl::StatusOr<std::vector<std::string>> Gather(
      const char* what, const std::string& bytes) = 0;
  // kFailedPrecondition naming the odd rank if the ranks' texts differ. `what`
  // is what the text describes: "recipe", "data".
  virtual absl::Status CheckEqual(const std::string& what,
                                  const std::string& text) = 0;
};

// RunStreamedPass's sums [spans][rows] as PassOutcome wants them.
std::vector<double> ByRow(const std::vector<double>& nll,
                          const std::vector<ChunkSpan>& spans, int64_t rows,
                          int64_t pieces);

// One process, all rows, all chunks.
class SingleRank : public Distribution {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  Range Rows(int64_t batch_size) const override { return {0, batch_size}; }
  std::vector<Range> Shards(const std::vector<Range>& buckets) const override {
    return buckets;
  }
  int64_t Pieces(int64_t length, int64_t chunk_length) const override {
    return static_cast<int64_t>(CutIntoChunks(length, chunk_length).size());
  }
  absl::StatusOr<PassOutcome> RunPass(LanguageModel& model,
                                      const PassRequest& request) override;
  absl::Status Sum(std::vector<double>&) override { return absl::OkStatus(); }
  absl::Status StartReduce(ParameterStore&, int64_t) override {
    return absl::OkStatus();
  }
  absl::Status FinishReduce(ParameterStore& store) override {
    store.CompleteGrads();
    return absl::OkStatus();
  }
  absl::Status GatherParameters(ParameterStore&) override {
    return absl::OkStatus();
  }
  absl::Status Broadcast(const char*, std::string&) override {
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<std::string>> Gather(
      const char*, const std::string& bytes) override {
    return std::vector<std::string>{bytes};
  }
  absl::Status CheckEqual(const std::string&, const std::string&) override {
    return absl::OkStatus();
  }
};

}  // namespace carry
