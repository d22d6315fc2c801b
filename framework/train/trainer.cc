#include "framework/train/trainer.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/io/checkpoint_folder.h"
#include "kernels/span.h"

namespace carry {

absl::StatusOr<std::unique_ptr<Trainer>> Trainer::Create(
    const config::Recipe& recipe, const std::string& run_folder,
    Distribution& ranks) {
  std::unique_ptr<Trainer> trainer(new Trainer(recipe, run_folder, ranks));
  absl::Status status = trainer->Open();
  if (!status.ok()) return status;
  return trainer;
}

absl::Status Trainer::Open() {
  const config::Training& training = recipe_.training();
  absl::StatusOr<TrainingData> data =
      OpenTrainingData(recipe_.data(), training.seed());
  if (!data.ok()) return data.status();
  data_ = *std::move(data);
  absl::Status status =
      ResolveVocabulary(*data_.tokenizer, recipe_.mutable_model());
  if (!status.ok()) return status;

  status = ranks_.CheckEqual(
      "data", data_.train->digest() +
                  (data_.held_out == nullptr ? "" : data_.held_out->digest()));
  if (!status.ok()) return status;
  plan_ = PlanTrainingMemory(recipe_);
  status = CheckMemoryOnAll();
  if (!status.ok()) return status;

  BatchOptions options;
  options.sequence_length = training.sequence_length();
  options.batch_size = training.batch_size();
  options.packing = recipe_.data().packing() == config::Data::CARRIED
                        ? Packing::kCarried
                        : Packing::kPacked;
  options.shuffle = recipe_.data().shuffle();
  options.seed = training.seed();
  absl::StatusOr<std::unique_ptr<BatchStream>> batches =
      BatchStream::Create(*data_.train, options);
  if (!batches.ok()) return batches.status();
  batches_ = *std::move(batches);
  if (training.steps() > batches_->max_steps()) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.steps is ", training.steps(),
                     "; with these sizes the data can be addressed for ",
                     batches_->max_steps(), " steps; lower it"));
  }
  learner_ = std::make_unique<Learner>(recipe_, ranks_);
  return absl::OkStatus();
}

// Nobody allocates before all have looked; all get the same answer.
absl::Status Trainer::CheckMemoryOnAll() {
  const absl::Status mine =
      CheckMemory(plan_, recipe_, AvailableMemory(ranks_.local_size()),
                  ranks_.local_size());
  absl::StatusOr<std::vector<std::string>> all =
      ranks_.Gather("memory check", std::string(mine.message()));
  if (!all.ok()) return all.status();
  for (const std::string& error : *all) {
    if (!error.empty()) return absl::ResourceExhaustedError(error);
  }
  return absl::OkStatus();
}

absl::StatusOr<StepReport> Trainer::Step() {
  CARRY_CHECK(!done());
  const Span span({.category = "step", .name = "step"});
  const config::Training& training = recipe_.training();
  const int64_t length = training.sequence_length();
  const Range rows = ranks_.Rows(training.batch_size());
  const int64_t size = rows.size() * length;
  std::vector<int32_t> tokens(size), targets(size);
  std::vector<uint8_t> document_start(size);
  {
    const Span data({.category = "data", .name = "read data"});
    batches_->Fill(
        step_, rows.begin, rows.size(), 0, length,
        {tokens.data(), targets.data(), document_start.data(), length});
  }
  SequenceBatch view;
  view.batch = rows.size();
  view.length = view.stride = length;
  view.tokens = tokens.data();
  view.targets = targets.data();
  view.document_start = document_start.data();
  absl::StatusOr<UpdateResult> update =
      learner_->Update(view, batches_->NumTargets(step_), step_);
  if (!update.ok()) return update.status();
  ++step_;
  tokens_ += training.batch_size() * length;
  nonfinite_in_a_row_ = update->nonfinite.empty() ? 0 : nonfinite_in_a_row_ + 1;
  if (nonfinite_in_a_row_ >= recipe_.training().max_nonfinite_steps()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the loss or a gradient was not finite in ", nonfinite_in_a_row_,
        " steps in a row, up to step ", step_, "; first in ", update->nonfinite,
        ". The last checkpoint is from before them: resume from it with a "
        "lower optimizer.learning_rate or optimizer.max_grad_norm"));
  }
  return StepReport{step_, tokens_, *std::move(update)};
}

absl::StatusOr<CorpusEval> Trainer::Evaluate(
    const std::function<bool(int64_t tokens)>& keep_going) {
  const Span span({.category = "evaluation", .name = "evaluate"});
  if (data_.held_out == nullptr) {
    return absl::FailedPreconditionError(
        "no data is held out; set data.eval or data.holdout_fraction");
  }
  const config::Training& training = recipe_.training();
  // No tape: a chunk as wide as a training step's rows are together.
  const int64_t chunk =
      std::min(training.sequence_length(),
               training.chunk_length() *
                   std::max<int64_t>(1, training.micro_batch_size()));
  const int64_t ranks = ranks_.size();
  CorpusEvalOptions options;
  options.max_tokens = recipe_.evaluation().max_tokens();
  options.chunk_length = chunk;
  options.first = ranks_.rank();
  options.stride = ranks;
  options.keep_going = keep_going;
  absl::StatusOr<CorpusEval> eval = EvaluateCorpus(
      learner_->model(), *data_.held_out, *data_.tokenizer, options);
  if (!eval.ok() || ranks == 1) return eval;
  return SumOverRanks(*std::move(eval));
}

absl::StatusOr<CorpusEval> Trainer::SumOverRanks(CorpusEval eval) {
  EvalResult& result = eval.result;
  constexpr size_t kBuckets = 63;
  std::vector<double> sums = {static_cast<double>(result.tokens), result.nll,
                              static_cast<double>(eval.documents),
                              static_cast<double>(eval.bytes)};
  const size_t head = sums.size();
  sums.resize(head + 2 * kBuckets, 0.0);
  for (size_t i = 0; i < result.by_position.size(); ++i) {
    sums[head + 2 * i] = static_cast<double>(result.by_position[i].tokens);
    sums[head + 2 * i + 1] = result.by_position[i].nll;
  }
  absl::Status status = ranks_.Sum(sums);
  if (!status.ok()) return status;
  result.tokens = static_cast<int64_t>(sums[0]);
  result.nll = sums[1];
  eval.documents = static_cast<int64_t>(sums[2]);
  eval.bytes = static_cast<int64_t>(sums[3]);
  result.by_position.clear();
  for (size_t i = 0; i < kBuckets && sums[head + 2 * i] > 0; ++i) {
    result.by_position.push_back({int64_t{1} << i,
                                  static_cast<int64_t>(sums[head + 2 * i]),
                                  sums[head + 2 * i + 1]});
  }
  return eval;
}

}  // namespace carry
