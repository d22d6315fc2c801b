// A model, its optimizer, and one update of its parameters.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/nn/language_model.h"
#include "framework/train/distribution.h"
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
  // `recipe` must be resolved; `ranks` must outlive the learner. Parameters
  // are initialised from the recipe's seed.
  Learner(const config::Recipe& recipe, Distribution& ranks);

  // Gradients of the mean loss over all `targets` of a step, clipping, and one
  // AdamW update with the learning rate of `step` (from 0). `batch` holds this
  // rank's rows (Distribution::Rows); they run micro_batch_size at a time, in
  // chunks as the recipe says. Every rank gets the same result.
  //
  // Rows keep their carries from call to call if the recipe's packing is
  // CARRIED; otherwise every sequence starts from zeros.
  absl::StatusOr<UpdateResult> Update(const SequenceBatch& batch,
                                      int64_t targets, int64_t step);

  LanguageModel& model() { return model_; }
  AdamWOptimizer& optimizer() { return optimizer_; }
  // Updates applied so far; steps that were skipped do not count.
  int64_t updates() const { return updates_; }
  void set_updates(int64_t updates) { updates_ = updates; }

  // CARRIED: [rows, ...] a layer and field, of this rank's rows; empty before
  // the first update and on ranks that do not run a sequence's first chunk.
  // Set takes the same form.
  std::vector<Carry> GetCarries() const;
  void SetCarries(const std::vector<Carry>& carries);

 private:
  struct MicroBatch {
    SequenceBatch batch;
    int64_t index;
  };
  std::vector<MicroBatch> Cut(const SequenceBatch& batch) const;
  // Runs a pass a micro-batch; nll of each by chunk. `reduce`: gradients are
  // complete with these.
  absl::StatusOr<std::vector<std::vector<double>>> AddGradients(
      const std::vector<MicroBatch>& micros, float weight, bool reduce,
      const Tape::Observer& observer);
  // The sum of nll over all ranks' passes, in an order that depends neither on
  // the mesh nor on who ran what.
  absl::StatusOr<double> TotalNll(const std::vector<std::vector<double>>& nll,
                                  int64_t length);
  absl::StatusOr<double> GlobalNorm();
  absl::StatusOr<std::string> Diagnose(const std::vector<MicroBatch>& micros,
                                       float weight);

  config::Recipe recipe_;
  Distribution& ranks_;
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
