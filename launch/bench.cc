// `carry bench`: what a training step spends its time on, beside what this
// machine could do.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"
#include "framework/memory.h"
#include "framework/random.h"
#include "framework/train/learner.h"
#include "framework/train/memory_plan.h"
#include "framework/train/training_data.h"
#include "kernels/parallel_for.h"
#include "launch/command.h"
#include "launch/device.h"
#include "launch/human.h"
#include "launch/limits.h"
#include "launch/recipe.h"
#include "launch/step_profile.h"

namespace carry {
namespace {

struct BenchOptions {
  RecipeOptions recipe;
  int steps = 5;
  bool one_thread = false;
};

// Random tokens of the recipe's shape, one document a sequence.
struct RandomBatch {
  RandomBatch(const config::Training& training, int64_t vocab) {
    view.batch = training.batch_size();
    view.length = view.stride = training.sequence_length();
    const int64_t size = view.batch * view.length;
    tokens.resize(size);
    for (int64_t i = 0; i < size; ++i) {
      tokens[i] = static_cast<int32_t>(
          UniformBelow(vocab, 1, 0, static_cast<uint64_t>(i)));
    }
    targets.assign(tokens.begin() + 1, tokens.end());
    targets.push_back(tokens.front());
    view.tokens = tokens.data();
    view.targets = targets.data();
  }
  RandomBatch(const RandomBatch&) = delete;
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }

  std::vector<int32_t> tokens, targets;
  SequenceBatch view;
};

struct TimedStep {
  double seconds = 0;
  std::vector<StepPart> parts;
};

absl::StatusOr<TimedStep> RunStep(Learner& learner, const RandomBatch& batch,
                                  int64_t step) {
  StepProfile profile;
  const auto begin = std::chrono::steady_clock::now();
  absl::StatusOr<UpdateResult> result =
      learner.Update(batch.view, batch.size(), step);
  if (!result.ok()) return result.status();
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - begin;
  return TimedStep{elapsed.count(), profile.Parts()};
}

bool Faster(const TimedStep& a, const TimedStep& b) {
  return a.seconds < b.seconds;
}

const TimedStep& Median(std::vector<TimedStep>& steps) {
  const auto middle = steps.begin() + static_cast<int64_t>(steps.size()) / 2;
  std::nth_element(steps.begin(), middle, steps.end(), Faster);
  return *middle;
}

// One line; `limit` == nullptr: nothing limits it.
void PrintLine(const std::string& name, int64_t calls, double seconds,
               double step, const std::string& rate, const Limit* limit) {
  std::cout << absl::StreamFormat("%-30s %6s %10.2f %6.1f%%  %-14s", name,
                                  calls > 0 ? absl::StrCat(calls) : "",
                                  seconds * 1e3, 100 * seconds / step, rate);
  if (limit != nullptr) {
    std::cout << absl::StreamFormat("%9.2f %5.0f%%  %s", limit->seconds * 1e3,
                                    100 * limit->seconds / seconds,
                                    limit->name);
  }
  std::cout << "\n";
}

std::string Gflops(double flops, double seconds) {
  return absl::StrFormat("%.0f GFLOP/s", flops * 1e-9 / seconds);
}

std::string RateOf(const StepPart& part) {
  if (part.product()) {
    return Gflops(part.flops(), part.seconds);
  }
  if (part.work.elements > 0) {
    return absl::StrFormat("%.2f G/s", static_cast<double>(part.work.elements) *
                                           1e-9 / part.seconds);
  }
  return absl::StrFormat(
      "%.1f GB/s", static_cast<double>(part.work.bytes) * 1e-9 / part.seconds);
}

void PrintProducts(const TimedStep& step, const Limits& limits,
                   double* limit_seconds) {
  StepPart all;
  Limit limit;
  double flops = 0;
  for (const StepPart& part : step.parts) {
    if (!part.product()) continue;
    all.calls += part.calls;
    all.seconds += part.seconds;
    flops += part.flops();
    const Limit of = limits.Of(part);
    limit.seconds += of.seconds;
    limit.name = of.name;
  }
  *limit_seconds += limit.seconds;
  PrintLine("products", all.calls, all.seconds, step.seconds,
            Gflops(flops, all.seconds), &limit);
  for (const StepPart& part : step.parts) {
    if (!part.product()) continue;
    const Limit of = limits.Of(part);
    // "matmul", "matmul dx" or "matmul dw".
    const std::string which(absl::StripPrefix(part.work.name, "matmul"));
    PrintLine(
        absl::StrFormat("  %-3s %d x %d x %d", which.empty() ? " y" : which,
                        part.work.m, part.work.n, part.work.k),
        part.calls, part.seconds, step.seconds, RateOf(part), &of);
  }
}

// Prints the table; returns the sum of the limits.
double PrintTable(const TimedStep& step, const Limits& limits) {
  std::cout << absl::StreamFormat("\n%-30s %6s %10s %7s  %-14s%9s %6s  %s\n",
                                  "part of a step", "calls", "ms", "share",
                                  "rate", "limit ms", "", "limit");
  double limit_seconds = 0, known = 0, core = 0;
  PrintProducts(step, limits, &limit_seconds);
  for (const StepPart& part : step.parts) {
    known += part.seconds;
    const absl::string_view name = part.work.name;
    if (part.product() || absl::StartsWith(name, "scan") ||
        absl::StartsWith(name, "convolution")) {
      core += part.seconds;
    }
    if (part.product()) continue;
    const Limit limit = limits.Of(part);
    limit_seconds += limit.seconds;
    PrintLine(std::string(name), part.calls, part.seconds, step.seconds,
              RateOf(part), &limit);
  }
  PrintLine("between them", 0, step.seconds - known, step.seconds, "", nullptr);
  const Limit limit = {limit_seconds, "the sum of the limits"};
  PrintLine("step", 0, step.seconds, step.seconds, "", &limit);
  std::cout << absl::StreamFormat(
      "\nOutside products, scan and convolution: %.1f%% of the step.\n",
      100 * (1 - core / step.seconds));
  return limit_seconds;
}

void PrintMemory() {
  std::cout << "memory      peak " << FormatBytes(GetTotalMemoryUse().peak)
            << ":";
  for (int i = 0; i < static_cast<int>(MemoryPart::kCount); ++i) {
    const auto part = static_cast<MemoryPart>(i);
    const MemoryUse use = GetMemoryUse(part);
    if (use.peak == 0) continue;
    std::cout << " " << Name(part) << " " << FormatBytes(use.peak) << ",";
  }
  std::cout << " resident at most " << FormatBytes(PeakResidentBytes()) << "\n";
}

struct Times {
  std::vector<TimedStep> steps;
  std::vector<TimedStep> one_thread;
};

// Steps, yardsticks and steps of one thread take turns: the machine's speed
// wanders.
absl::StatusOr<Times> Measure(const BenchOptions& options, Learner& learner,
                              const RandomBatch& batch, Limits& limits) {
  Times times;
  const int threads = NumThreads();
  int64_t count = 0;
  for (int i = 0; i < options.steps; ++i) {
    limits.Sample();
    absl::StatusOr<TimedStep> step = RunStep(learner, batch, ++count);
    if (!step.ok()) return step.status();
    times.steps.push_back(*std::move(step));
    if (!options.one_thread) continue;
    SetNumThreads(1);
    step = RunStep(learner, batch, ++count);
    SetNumThreads(threads);
    if (!step.ok()) return step.status();
    times.one_thread.push_back(*std::move(step));
  }
  limits.Sample();
  return times;
}

absl::Status Bench(const BenchOptions& options) {
  absl::StatusOr<config::Recipe> recipe =
      LoadRecipe(options.recipe.path, options.recipe.sets);
  if (!recipe.ok()) return recipe.status();
  absl::Status status = ResolveVocabulary(&*recipe);
  if (status.ok()) status = OpenDevice(&*recipe);
  if (!status.ok()) return status;
  // Of one rank, whatever mesh the recipe is for.
  recipe->mutable_parallel()->set_data(1);
  recipe->mutable_parallel()->set_sequence(1);
  status =
      CheckMemory(PlanTrainingMemory(*recipe), *recipe, AvailableMemory(1), 1);
  if (!status.ok()) return status;

  std::cout << DescribeRecipe(*recipe) << "machine     " << DescribeDevice()
            << "\n";
  SingleRank ranks;
  Learner learner(*recipe, ranks);
  const RandomBatch batch(recipe->training(), recipe->model().vocab_size());
  // The first step allocates; its memory is what a run's first step takes.
  absl::StatusOr<TimedStep> first = RunStep(learner, batch, 0);
  if (!first.ok()) return first.status();
  PrintMemory();

  Limits limits(first->parts);
  absl::StatusOr<Times> times = Measure(options, learner, batch, limits);
  if (!times.ok()) return times.status();
  const TimedStep& step = Median(times->steps);
  const double limit = PrintTable(step, limits);
  const double best =
      std::min_element(times->steps.begin(), times->steps.end(), Faster)
          ->seconds;
  const double tokens = static_cast<double>(batch.size());
  std::cout << absl::StreamFormat(
      "%d steps of %s tokens: median %s tokens/s, %.0f%% of the limits' sum; "
      "best %s tokens/s, %.0f%%.\n",
      options.steps, Human(tokens), Human(tokens / step.seconds),
      100 * limit / step.seconds, Human(tokens / best), 100 * limit / best);
  if (options.one_thread) {
    const double one = Median(times->one_thread).seconds;
    std::cout << absl::StreamFormat(
        "One thread: %s tokens/s; %d threads are %.2f times as fast.\n",
        Human(tokens / one), NumThreads(), one / step.seconds);
  }
  std::cout << "Yardsticks, best of this run: " << limits.ToString() << "\n";
  return absl::OkStatus();
}

}  // namespace

Command AddBench(CLI::App& program) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* app = program.add_subcommand(
      "bench",
      "Time training steps of a recipe on random tokens, part by part, beside "
      "what this machine could do");
  app->add_option("RECIPE", options->recipe.path, "A recipe (.textproto)")
      ->required();
  AddSetOption(*app, &options->recipe.sets);
  app->add_option("--steps", options->steps,
                  "Steps to time; the table is of the median one; default 5")
      ->type_name("N")
      ->check(CLI::Range(1, 1000));
  app->add_flag("--one-thread", options->one_thread,
                "Also steps with one thread, in turns with the others");
  AddThreadsOption(*app);
  app->footer(
      "Example:\n"
      "  carry bench recipes/mamba-130m.textproto --set training.batch_size=1 "
      "\\\n      --set training.sequence_length=2048 --one-thread");
  return {app, [options] { return Bench(*options); }};
}

}  // namespace carry
