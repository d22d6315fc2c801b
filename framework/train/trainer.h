// A training run in one process: data, learner, checkpoints.
//
// A run folder holds
//   recipe.textproto          the resolved recipe, in full
//   checkpoints/step-000020/  a checkpoint (framework/io/checkpoint_folder.h):
//     config.json, model.safetensors    as Hugging Face loads them
//     optimizer.safetensors             m.<parameter>, v.<parameter>
//     carries.safetensors               CARRIED only: layers.<l>.<field>
//                                       (both in a file a rank,
//                                       framework/train/sliced_tensors.h)
//     recipe.textproto                  the recipe of the run that saved it
//     tokenizer.model                   SentencePiece only
//     state.json                        step, counters, position in the data
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/data/batches.h"
#include "framework/io/checkpoint_folder.h"
#include "framework/io/safetensors.h"
#include "framework/train/distribution.h"
#include "framework/train/evaluate.h"
#include "framework/train/learner.h"
#include "framework/train/memory_plan.h"
#include "framework/train/training_data.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

struct StepReport {
  int64_t step = 0;    // steps done, this one included
  int64_t tokens = 0;  // inputs of all steps so far
  UpdateResult update;
};

// Not safe for use from several threads.
class Trainer {
 public:
  // Opens the data, refuses what does not fit in memory, and initialises.
  // `recipe` is resolved but for the vocabulary of a tokenizer file. Nothing
  // is written before the first Save. `ranks` must outlive the trainer.
  static absl::StatusOr<std::unique_ptr<Trainer>> Create(
      const config::Recipe& recipe, const std::string& run_folder,
      Distribution& ranks);

  // Goes on from the newest committed checkpoint of the run folder and says
  // which it was and which damaged ones were passed over. kNotFound if there is
  // none; other errors name the file and what differs (weights' shapes, data,
  // packing).
  absl::StatusOr<FoundCheckpoint> Resume();

  // One step. After training.max_nonfinite_steps in a row that were not finite
  // an error that says where it arose first; the last checkpoint stays as it
  // is.
  absl::StatusOr<StepReport> Step();

  // Writes a checkpoint, removes old ones beyond checkpoint.keep. Returns its
  // path.
  absl::StatusOr<std::string> Save();

  // Held-out loss, documents shared out over ranks; kFailedPrecondition if the
  // recipe holds nothing out.
  absl::StatusOr<CorpusEval> Evaluate(
      const std::function<bool(int64_t tokens)>& keep_going);

  bool done() const { return step_ >= recipe_.training().steps(); }
  int64_t step() const { return step_; }
  int64_t tokens() const { return tokens_; }
  const config::Recipe& recipe() const { return recipe_; }
  const TrainingData& data() const { return data_; }
  const BatchStream& batches() const { return *batches_; }
  const MemoryPlan& memory_plan() const { return plan_; }
  LanguageModel& model() { return learner_->model(); }

 private:
  Trainer(const config::Recipe& recipe, std::string run_folder,
          Distribution& ranks)
      : recipe_(recipe), run_folder_(std::move(run_folder)), ranks_(ranks) {}
  absl::Status Open();
  absl::Status CheckMemoryOnAll();
  absl::StatusOr<CorpusEval> SumOverRanks(CorpusEval eval);
  std::string checkpoints() const { return run_folder_ + "/checkpoints"; }
  std::map<std::string, std::vector<TensorToWrite>> TensorFiles(
      const std::vector<Carry>& carries);
  absl::Status AddCommonFiles(CheckpointWriter& writer);
  std::string CommitOnRoot(const std::vector<std::string>& reports,
                           CheckpointWriter& writer);
  std::string StateJson() const;
  absl::Status LoadState(const std::string& folder);
  absl::Status LoadOptimizer(const std::string& folder);
  absl::Status LoadCarries(const std::string& folder);

  config::Recipe recipe_;
  std::string run_folder_;
  Distribution& ranks_;
  TrainingData data_;
  std::unique_ptr<BatchStream> batches_;
  MemoryPlan plan_;
  std::unique_ptr<Learner> learner_;
  int64_t step_ = 0;
  int64_t tokens_ = 0;
  int64_t nonfinite_in_a_row_ = 0;
};

// A model to evaluate or to generate with: a checkpoint, a run folder (its
// newest checkpoint) or any folder that Hugging Face loads.
struct LoadedModel {
  std::string path;  // of the folder that was loaded
  std::unique_ptr<LanguageModel> model;
  // The checkpoint's own recipe, if it has one.
  bool has_recipe = false;
  config::Recipe recipe;
};
absl::StatusOr<LoadedModel> LoadModel(const std::string& folder,
                                      DType activations);

}  // namespace carry
