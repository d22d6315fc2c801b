// What a training step asks of the ranks that share it.
//
// The framework knows no rank: it knows this interface, and one rank alone
// (SingleRank). parallel/ implements it for a mesh of ranks.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/nn/language_model.h"
#include "framework/train/streamed_pass.h"

namespace carry {

// Half-open.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// One pass over some sequences of a step.
struct PassRequest {
  SequenceBatch batch;       // this rank's rows, all of their tokens
  int64_t micro_batch = 0;   // counts passes within the step
  int64_t chunk_length = 0;  // 0: one chunk
  StreamedPassOptions options;
  // Carries into the first chunk, by layer, or empty: zeros. Only read by the
  // rank that runs the first chunk.
  std::vector<Carry> initial;
  bool want_final = false;
};

struct PassOutcome {
  // Sum of nll by chunk of the whole sequence; zero for chunks of others.
  std::vector<double> nll;
  // If wanted: carries out of the last chunk, by layer, where the next pass
  // over these rows will read `initial`; empty elsewhere.
  std::vector<Carry> final;
};

class Distribution {
 public:
  virtual ~Distribution() = default;

  virtual bool is_root() const = 0;  // writes files and talks to the user
  // Rows of a step's batch that this rank works on; may be empty.
  virtual Range Rows(int64_t batch_size) const = 0;
  // Elements of a flat array of `size` whose optimizer state this rank keeps.
  // Ranges of all ranks cover the array in rank order.
  virtual Range Shard(int64_t size) const = 0;

  // Loss and gradients of this rank's part; gradients are added to the model.
  virtual absl::StatusOr<PassOutcome> RunPass(LanguageModel& model,
                                              const PassRequest& request) = 0;
  // Sums over ranks, the same bits on each.
  virtual absl::Status Sum(std::vector<double>& values) = 0;
  // Afterwards this rank's shard of the gradients holds the sum over all
  // ranks; the rest is undefined.
  virtual absl::Status ReduceGradients(ParameterStore& store) = 0;
  // Every rank's shard of the weights reaches all ranks.
  virtual absl::Status GatherParameters(ParameterStore& store) = 0;
};

// One process, all rows, all chunks.
class SingleRank : public Distribution {
 public:
  bool is_root() const override { return true; }
  Range Rows(int64_t batch_size) const override { return {0, batch_size}; }
  Range Shard(int64_t size) const override { return {0, size}; }
  absl::StatusOr<PassOutcome> RunPass(LanguageModel& model,
                                      const PassRequest& request) override;
  absl::Status Sum(std::vector<double>&) override { return absl::OkStatus(); }
  absl::Status ReduceGradients(ParameterStore&) override {
    return absl::OkStatus();
  }
  absl::Status GatherParameters(ParameterStore&) override {
    return absl::OkStatus();
  }
};

}  // namespace carry
