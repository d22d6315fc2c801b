// A model, its optimizer, and one update of its parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/nn/language_model.h"
#include "framework/train/optimizer.h"
#include "framework/train/streamed_pass.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

struct UpdateResult {
  double loss = 0;  // mean nll over targets, nats
  int64_t targets = 0;
  double gradient_norm = 0;  // before clipping
  double learning_rate = 0;
  // Not empty: loss or gradient was not finite, nothing was updated; says
  // which tensor of which layer and chunk was the first.
  std::string nonfinite;
};

// Not safe for use from several threads.
class Learner {
 public:
  // `recipe` must be resolved. Parameters are initialised from its seed.
  explicit Learner(const config::Recipe& recipe);

  // Gradients of the mean loss over all targets of `batch`, clipping, and one
  // AdamW update with the learning rate of `step` (from 0). Sequences run
  // micro_batch_size at a time, chunks as the recipe says.
  //
  // Rows keep their carries from call to call if the recipe's packing is
  // CARRIED; otherwise every sequence starts from zeros.
  absl::StatusOr<UpdateResult> Update(const SequenceBatch& batch, int64_t step);

  LanguageModel& model() { return model_; }
  AdamWOptimizer& optimizer() { return optimizer_; }
  // Updates applied so far; steps that were skipped do not count.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // CARRIED: [batch_size, ...] a layer and field; empty before the first
  // update. Set takes the same form.
  std::vector<Carry> GetCarries() const;
  void SetCarries(const std::vector<Carry>& carries);

 private:
  struct MicroBatch {
    SequenceBatch batch;
    int64_t index;
  };
  std::vector<MicroBatch> Cut(const SequenceBatch& batch) const;
  absl::StatusOr<double> AddGradients(const MicroBatch& micro, float weight,
                                      const Tape::Observer& observer);
  std::string Diagnose(const std::vector<MicroBatch>& micros, float weight);

  config::Recipe recipe_;
  LanguageModel model_;
  AdamWOptimizer optimizer_;
  int64_t updates_ = 0;
  bool carried_;
  // CARRIED, by micro-batch and layer: after the last update, and after the
  // one that is running.
  std::vector<std::vector<Carry>> carries_, next_carries_;
};

DType ActivationDType(const config::Recipe& recipe);

}  // namespace carry
