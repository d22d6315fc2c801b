// `carry train`: a run from its recipe to its last checkpoint.
#include "launch/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "framework/io/checkpoint_folder.h"
#include "framework/io/file.h"
#include "framework/memory.h"
#include "framework/train/trainer.h"
#include "kernels/parallel_for.h"
#include "launch/command.h"
#include "launch/cost.h"
#include "launch/device.h"
#include "launch/device_rates.h"
#include "launch/human.h"
#include "launch/interrupt.h"
#include "launch/metrics.h"
#include "launch/progress.h"
#include "launch/ranks.h"
#include "launch/recipe.h"
#include "launch/recipe_resolve.h"
#include "launch/trace.h"
#include "parallel/plan.h"

namespace carry {
namespace {

// Of a rank, in a trace: some 70 MB.
constexpr int64_t kMostSpans = 1000000;

double Now() {
  return std::chrono::duration<double>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The run around a Trainer: what is logged, saved and evaluated when.
class Run {
 public:
  Run(Trainer& trainer, Ranks& ranks, std::string out)
      : trainer_(trainer),
        ranks_(ranks),
        speaks_(ranks.distribution->rank() == 0),
        out_(std::move(out)),
        cost_(CostOf(trainer.recipe())),
        plan_(PlanStep(trainer.recipe(), ranks.rates,
                       std::numeric_limits<int64_t>::max())),
        progress_(stdout, trainer.recipe().training().steps()) {}

  absl::Status Open();
  absl::Status Train();
  // Says what the trace shows. Collective.
  absl::Status FinishTrace(Trace& trace, const std::string& path);
  // Says what was measured beside what was predicted. Collective.
  absl::Status ComparePlan();

 private:
  absl::Status Log(const StepReport& report, double seconds);
  absl::Status Save();
  absl::Status Evaluate();
  bool Due(int64_t every) const {
    return every > 0 && trainer_.step() % every == 0 && !trainer_.done();
  }

  // Whether any rank was asked to stop.
  absl::StatusOr<bool> Interrupted() {
    return AnyRank(*ranks_.distribution, InterruptSignal() != 0);
  }

  Trainer& trainer_;
  Ranks& ranks_;
  const bool speaks_;  // rank 0 alone logs and writes
  std::string out_;
  RecipeCost cost_;
  StepPlan plan_;
  double matmul_peak_ = 0;
  Progress progress_;
  std::unique_ptr<MetricsWriter> metrics_;
  // Since the last logged step.
  double seconds_ = 0;
  int64_t steps_ = 0;
  std::vector<double> step_seconds_;  // of all steps of this process
  int64_t saved_step_ = -1;
};

absl::Status Run::Open() {
  if (!speaks_) return absl::OkStatus();
  absl::Status status = WriteFileAtomically(out_ + "/recipe.textproto",
                                            RecipeText(trainer_.recipe()));
  if (!status.ok()) return status;
  absl::StatusOr<std::unique_ptr<MetricsWriter>> metrics =
      MetricsWriter::Open(out_, trainer_.step());
  if (!metrics.ok()) return metrics.status();
  metrics_ = *std::move(metrics);
  status = progress_.OpenLog(out_ + "/train.log", trainer_.step() > 0);
  if (!status.ok()) return status;

  const DType dtype = ActivationDType(trainer_.recipe());
  const int ranks = ranks_.distribution->size();
  matmul_peak_ = MeasureProductPeak(dtype) * ranks;
  TrimMemoryCache();
  ResetMemoryPeaks();  // What was measured is no part of the run.
  progress_.Note(DescribeRecipe(trainer_.recipe()));
  progress_.Note(absl::StrFormat(
      "tokens      %s to train on, %.3g epochs; %s held out",
      Human(static_cast<double>(trainer_.data().train->num_tokens())),
      static_cast<double>(trainer_.recipe().training().steps()) /
          trainer_.batches().steps_per_epoch(),
      trainer_.data().held_out == nullptr
          ? "none"
          : Human(
                static_cast<double>(trainer_.data().held_out->num_tokens()))));
  progress_.Note(
      absl::StrCat("memory      ", trainer_.memory_plan().ToString()));
  progress_.Note(absl::StrFormat(
      "machine     %s%s; %s FLOP/s in %s products",
      ranks == 1 ? "" : absl::StrCat(ranks, " ranks of "),
      DescribeDevice(ranks_.local_size), Human(matmul_peak_), Name(dtype)));
  const config::Parallel& parallel = plan_.parallel;
  std::string mesh;
  if (ranks > 1) {
    mesh = absl::StrCat(
        parallel.data(), " x ", parallel.sequence(), " ranks",
        parallel.sequence() > 1
            ? absl::StrCat(", ",
                           config::Parallel::Schedule_Name(parallel.schedule()))
            : "",
        ": ", FormatBytes(plan_.carry_bytes), " of carries and ",
        FormatBytes(plan_.other_bytes), " of gradients and weights a step, ",
        absl::StrFormat("%.1f%% idle, ", 100 * plan_.idle));
  }
  progress_.Note(absl::StrCat("predicted   ", mesh,
                              Human(plan_.tokens_per_second), " tok/s, ",
                              FormatBytes(plan_.memory.total()), " a rank"));
  progress_.Note(absl::StrCat("folder      ", out_, "\n"));
  return absl::OkStatus();
}

absl::Status Run::Log(const StepReport& report, double seconds) {
  if (!speaks_) return absl::OkStatus();
  seconds_ += seconds;
  ++steps_;
  const bool skipped = !report.update.nonfinite.empty();
  if (skipped) {
    progress_.Note(absl::StrCat("step ", report.step,
                                ": not finite, update skipped; first in ",
                                report.update.nonfinite));
  }
  if (report.step % trainer_.recipe().training().log_every() != 0 &&
      !trainer_.done() && !skipped) {
    return absl::OkStatus();
  }
  TrainMetrics metrics;
  metrics.step = report.step;
  metrics.tokens = report.tokens;
  metrics.loss = report.update.loss;
  if (trainer_.recipe().data().tokenizer().kind_case() ==
      config::Tokenizer::kBytes) {
    metrics.bits_per_byte = metrics.loss / std::log(2.0);
  }
  metrics.grad_norm = report.update.gradient_norm;
  metrics.learning_rate = report.update.learning_rate;
  metrics.skipped = skipped;
  metrics.seconds = seconds_ / static_cast<double>(steps_);
  metrics.tokens_per_second =
      static_cast<double>(cost_.tokens_per_step) / metrics.seconds;
  metrics.matmul_share = cost_.step_flops / metrics.seconds / matmul_peak_;
  seconds_ = 0;
  steps_ = 0;
  progress_.Step(metrics);
  return metrics_->Write(metrics);
}

absl::Status Run::Save() {
  if (saved_step_ == trainer_.step()) return absl::OkStatus();
  absl::StatusOr<std::string> path = trainer_.Save();
  if (!path.ok()) return path.status();
  saved_step_ = trainer_.step();
  if (speaks_) progress_.Note(absl::StrCat("saved ", *path));
  return absl::OkStatus();
}

absl::Status Run::Evaluate() {
  const double begin = Now();
  absl::StatusOr<CorpusEval> eval =
      trainer_.Evaluate([](int64_t) { return InterruptSignal() == 0; });
  if (!eval.ok()) return eval.status();
  EvalMetrics metrics;
  metrics.step = trainer_.step();
  metrics.tokens = eval->result.tokens;
  metrics.loss = eval->result.MeanNll();
  metrics.bits_per_byte = eval->BitsPerByte();
  metrics.seconds = Now() - begin;
  // What was cut short by a signal is not comparable with other evaluations.
  absl::StatusOr<bool> interrupted = Interrupted();
  if (!interrupted.ok() || *interrupted || !speaks_) {
    return interrupted.status();
  }
  progress_.Note(absl::StrFormat(
      "held out at step %d: loss %.4f | %.4f bits/byte | %s tokens in %s",
      metrics.step, metrics.loss, metrics.bits_per_byte,
      Human(static_cast<double>(metrics.tokens)),
      HumanSeconds(metrics.seconds)));
  return metrics_->Write(metrics);
}

absl::Status Run::Train() {
  const config::Recipe& recipe = trainer_.recipe();
  const bool held_out = trainer_.data().held_out != nullptr;
  absl::Status status;
  while (!trainer_.done()) {
    absl::StatusOr<bool> stop = Interrupted();
    if (!stop.ok()) return stop.status();
    if (*stop) break;
    const double begin = Now();
    absl::StatusOr<StepReport> report = trainer_.Step();
    if (!report.ok()) return report.status();
    step_seconds_.push_back(Now() - begin);
    status = Log(*report, step_seconds_.back());
    if (!status.ok()) return status;
    if (Due(recipe.checkpoint().every())) {
      if (status = Save(); !status.ok()) return status;
    }
    if (held_out && Due(recipe.evaluation().every())) {
      if (status = Evaluate(); !status.ok()) return status;
    }
  }
  if (status = Save(); !status.ok()) return status;
  if (!trainer_.done()) {
    if (!speaks_) return absl::OkStatus();
    progress_.Note(
        absl::StrCat("stopped by a signal after step ", trainer_.step(), " of ",
                     recipe.training().steps(), "; --resume goes on"));
    return absl::OkStatus();
  }
  if (status = ComparePlan(); !status.ok()) return status;
  return held_out ? Evaluate() : absl::OkStatus();
}

absl::Status Run::ComparePlan() {
  if (step_seconds_.empty()) return absl::OkStatus();
  absl::StatusOr<std::vector<std::string>> peaks = ranks_.distribution->Gather(
      "memory in use", absl::StrCat(GetTotalMemoryUse().peak));
  if (!peaks.ok() || !speaks_) return peaks.status();
  int64_t most = 0;
  for (const std::string& text : *peaks) {
    int64_t peak = 0;
    if (absl::SimpleAtoi(text, &peak)) most = std::max(most, peak);
  }
  const auto middle =
      step_seconds_.begin() + static_cast<int64_t>(step_seconds_.size()) / 2;
  std::nth_element(step_seconds_.begin(), middle, step_seconds_.end());
  const double rate = static_cast<double>(cost_.tokens_per_step) / *middle;
  progress_.Note(absl::StrFormat(
      "measured    %s tok/s in the middle step, %.2f of what was predicted; "
      "tensors of %s in a rank at most, %.2f of it",
      Human(rate), rate / plan_.tokens_per_second, FormatBytes(most),
      static_cast<double>(most) / static_cast<double>(plan_.memory.total())));
  return absl::OkStatus();
}

absl::Status Run::FinishTrace(Trace& trace, const std::string& path) {
  absl::StatusOr<std::vector<double>> shares = trace.Finish();
  if (!shares.ok() || !speaks_) return shares.status();
  std::string text;
  for (double share : *shares) {
    absl::StrAppendFormat(&text, "%s%.1f%%", text.empty() ? "" : ", ",
                          100 * share);
  }
  progress_.Note(absl::StrCat("trace ", path,
                              "; share of steps that ranks waited: ", text));
  return absl::OkStatus();
}

bool HasCheckpoints(const std::string& out) {
  absl::StatusOr<std::vector<int64_t>> steps =
      ListCheckpoints(out + "/checkpoints");
  return steps.ok() && !steps->empty();
}

// No checkpoint yet is no error, so that a job that is queued again needs one
// command for all its runs; damaged ones alone are.
absl::Status Resume(Trainer& trainer, const std::string& out, bool speaks) {
  if (!HasCheckpoints(out)) {
    if (speaks)
      std::cout << "no checkpoint in " << out << " yet: starting at step 0\n";
    return absl::OkStatus();
  }
  absl::StatusOr<FoundCheckpoint> from = trainer.Resume();
  if (!from.ok()) return from.status();
  if (!speaks) return absl::OkStatus();
  for (const std::string& skipped : from->skipped) {
    std::cerr << "carry: warning: passed over " << skipped << "\n";
  }
  std::cout << "resuming from " << from->path << "\n";
  return absl::OkStatus();
}

}  // namespace

absl::Status Train(const TrainOptions& options, const RanksStarter& start) {
  absl::StatusOr<config::Recipe> recipe =
      LoadRecipe(options.recipe.path, options.recipe.sets);
  if (!recipe.ok()) return recipe.status();
  absl::Status status = RequireTrainingData(*recipe);
  if (!status.ok()) return status;
  const std::string out =
      options.out.empty() ? "runs/" + recipe->name() : options.out;
  if (!options.resume && HasCheckpoints(out)) {
    return absl::AlreadyExistsError(
        absl::StrCat(out,
                     " holds the checkpoints of an earlier run: go on "
                     "with --resume, choose another folder with --out, or "
                     "remove it"));
  }
  absl::StatusOr<Ranks> ranks = start(*recipe, options.threads_given);
  if (!ranks.ok()) return ranks.status();
  absl::StatusOr<std::unique_ptr<Trainer>> trainer =
      Trainer::Create(ranks->recipe, out, *ranks->distribution);
  if (!trainer.ok()) return trainer.status();
  if (options.resume) {
    status = Resume(**trainer, out, ranks->distribution->rank() == 0);
    if (!status.ok()) return status;
  }
  status = MakeDirectories(out);
  if (!status.ok()) return status;
  CatchInterrupts();
  Run run(**trainer, *ranks, out);
  if (status = run.Open(); !status.ok()) return status;
  if (options.trace.empty()) return run.Train();
  absl::StatusOr<std::unique_ptr<Trace>> trace =
      Trace::Start(options.trace, kMostSpans, *ranks->distribution);
  if (!trace.ok()) return trace.status();
  if (status = run.Train(); !status.ok()) return status;
  return run.FinishTrace(**trace, options.trace);
}

Command AddTrain(CLI::App& program) {
  auto options = std::make_shared<TrainOptions>();
  CLI::App* app =
      program.add_subcommand("train", "Train a model as a recipe says");
  app->add_option("RECIPE", options->recipe.path, "A recipe (.textproto)")
      ->required();
  AddSetOption(*app, &options->recipe.sets);
  app->add_option("--out", options->out,
                  "Folder for checkpoints, metrics and the resolved recipe; "
                  "default: runs/ and the recipe's name")
      ->type_name("FOLDER");
  app->add_flag("--resume", options->resume,
                "Go on from the newest checkpoint in that folder, if any");
  app->add_option("--trace", options->trace,
                  "Write what every rank did when, for ui.perfetto.dev; the "
                  "first million spans of each rank")
      ->type_name("FILE");
  AddThreadsOption(*app);
  app->footer(
      "Ctrl-C (or SIGTERM) finishes the step, saves and exits; twice exits at "
      "once.\n\n"
      "Example:\n"
      "  carry train recipes/quickstart.textproto --set training.steps=100 "
      "--out runs/try");
  return {app, [options, app] {
            options->threads_given = app->count("--threads") > 0;
            return Train(*options, StartRanks);
          }};
}

}  // namespace carry
