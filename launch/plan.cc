// `carry plan`: what a step of a recipe will take on so many ranks.
#include "parallel/plan.h"

#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "framework/io/file.h"
#include "framework/memory.h"
#include "framework/train/training_data.h"
#include "kernels/parallel_for.h"
#include "launch/command.h"
#include "launch/device.h"
#include "launch/human.h"
#include "launch/rates.h"
#include "launch/recipe.h"

namespace carry {
namespace {

struct PlanOptions {
  RecipeOptions recipe;
  int64_t ranks = 0;  // 0: those of the recipe
  bool threads_given = false;
  int64_t memory = 0;  // bytes a rank; 0: its share of this machine
  std::string rates;   // file to read
  std::string write_rates;
};

absl::StatusOr<RankRates> Rates(const PlanOptions& options,
                                const config::Recipe& recipe) {
  RankRates rates;
  if (options.rates.empty()) {
    rates = MeasureRates(recipe);
  } else {
    absl::StatusOr<std::string> text =
        ReadFile(options.rates, int64_t{1} << 20);
    if (!text.ok()) return text.status();
    absl::StatusOr<RankRates> read = ParseRates(*text, options.rates);
    if (!read.ok()) return read.status();
    rates = *read;
  }
  if (options.write_rates.empty()) return rates;
  absl::Status status =
      WriteFileAtomically(options.write_rates, RatesText(rates));
  if (!status.ok()) return status;
  return rates;
}

// D x S of `ranks`, the recipe's own mesh alone if it has as many.
std::vector<std::pair<int64_t, int64_t>> Meshes(const config::Parallel& own,
                                                int64_t ranks, bool all) {
  std::vector<std::pair<int64_t, int64_t>> meshes;
  for (int64_t d = 1; d <= ranks; ++d) {
    if (ranks % d != 0) continue;
    if (all || d == own.data()) meshes.emplace_back(d, ranks / d);
  }
  return meshes;
}

std::string NameOf(const StepPlan& plan) {
  const int64_t s = plan.parallel.sequence();
  return absl::StrFormat(
      "%-8s %-9s", absl::StrCat(plan.parallel.data(), " x ", s),
      s == 1 ? "-" : config::Parallel::Schedule_Name(plan.parallel.schedule()));
}

void Print(const StepPlan& plan) {
  std::cout << NameOf(plan);
  if (plan.tokens_per_second > 0) {
    std::cout << absl::StreamFormat(
        " %9.4g %9s %6.1f%% %11s %11s %11s", plan.seconds,
        Human(plan.tokens_per_second), 100 * plan.idle,
        FormatBytes(plan.memory.total()), FormatBytes(plan.carry_bytes),
        FormatBytes(plan.other_bytes));
  }
  if (!plan.refused.empty()) std::cout << "  refused: " << plan.refused;
  std::cout << "\n";
}

void PrintRates(const RankRates& r) {
  std::cout << absl::StrCat(
      "rates       of one rank, ",
      DefaultDevice() == Device::kCpu ? absl::StrCat(NumThreads(), " threads")
                                      : DescribeDevice(),
      ": products ", Human(r.products), " FLOP/s; scan ", Human(r.scan_forward),
      " elements/s forward, ", Human(r.scan_backward), " backward, summaries ",
      Human(r.summary), " and ", Human(r.gradient_summary), "; memory ",
      Human(r.memory), " B/s; messages ", Human(r.message_bytes), " B/s after ",
      absl::StrFormat("%.0f us", 1e6 * r.message_seconds), "\n");
}

absl::Status Plan(const PlanOptions& options) {
  absl::StatusOr<config::Recipe> recipe =
      LoadRecipe(options.recipe.path, options.recipe.sets);
  if (!recipe.ok()) return recipe.status();
  absl::Status status = ResolveVocabulary(&*recipe);
  if (status.ok()) status = OpenDevice(&*recipe);
  if (!status.ok()) return status;

  const config::Parallel own = recipe->parallel();
  const int64_t ranks =
      options.ranks > 0 ? options.ranks : own.data() * own.sequence();
  if (!options.threads_given) {
    const auto cores = static_cast<int64_t>(NumThreads());
    SetNumThreads(static_cast<int>(std::max<int64_t>(1, cores / ranks)));
  }
  int64_t memory = options.memory;
  if (memory <= 0) memory = own.memory_budget();
  if (memory <= 0) memory = AvailableMemory(ranks);
  absl::StatusOr<RankRates> rates = Rates(options, *recipe);
  if (!rates.ok()) return rates.status();

  std::cout << DescribeRecipe(*recipe);
  PrintRates(*rates);
  std::cout << absl::StreamFormat(
      "memory      %s for each of %d ranks\n\n"
      "data x sequence    s a step     tok/s    idle      a rank     carries "
      "       other\n",
      FormatBytes(memory), ranks);
  std::vector<StepPlan> plans;
  std::vector<std::string> choices;
  for (const auto& [d, s] : Meshes(own, ranks, options.ranks > 0)) {
    config::Recipe tried = *recipe;
    config::Parallel& parallel = *tried.mutable_parallel();
    parallel.set_data(d);
    parallel.set_sequence(s);
    for (const auto schedule :
         {config::Parallel::WAVEFRONT, config::Parallel::PREFIX}) {
      if (s == 1 && schedule == config::Parallel::PREFIX) continue;
      parallel.set_schedule(schedule);
      plans.push_back(PlanStep(tried, *rates, memory));
      Print(plans.back());
    }
    if (s == 1) continue;
    const ScheduleChoice choice = ChooseSchedule(tried, *rates, memory);
    choices.push_back(
        absl::StrCat("AUTO on ", d, " x ", s, ": ",
                     config::Parallel::Schedule_Name(choice.schedule), ", for ",
                     choice.why));
  }
  std::cout << "\n";
  for (const std::string& choice : choices) std::cout << choice << "\n";
  std::cout << "\nmemory of a rank, by part\n";
  for (const StepPlan& plan : plans) {
    std::cout << NameOf(plan) << " " << plan.memory.ToString() << "\n";
  }
  return absl::OkStatus();
}

}  // namespace

Command AddPlan(CLI::App& program) {
  auto options = std::make_shared<PlanOptions>();
  CLI::App* app = program.add_subcommand(
      "plan", "Say what a step of a recipe will take on so many ranks");
  app->add_option("RECIPE", options->recipe.path, "A recipe (.textproto)")
      ->required();
  AddSetOption(*app, &options->recipe.sets);
  app->add_option("--ranks", options->ranks,
                  "Plan for every data x sequence of so many ranks; default: "
                  "the recipe's own")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20));
  app->add_option("--memory", options->memory,
                  "Bytes that each rank may take; default: "
                  "parallel.memory_budget, or this machine's, shared evenly")
      ->type_name("BYTES")
      ->check(CLI::PositiveNumber);
  app->add_option("--rates", options->rates,
                  "A rank's rates from a file that --write-rates made, instead "
                  "of measuring them")
      ->type_name("FILE");
  app->add_option("--write-rates", options->write_rates,
                  "Where to write the rates, as JSON")
      ->type_name("FILE");
  AddThreadsOption(*app);
  app->footer(
      "Columns: seconds of a step and its tokens a second; the share of that "
      "time that ranks wait; memory of a rank; bytes that all ranks together "
      "send for carries, and for gradients, weights and sums.\n\n"
      "Example:\n"
      "  carry plan recipes/million-token.textproto --ranks 4");
  return {app, [options, app] {
            options->threads_given = app->count("--threads") > 0;
            return Plan(*options);
          }};
}

}  // namespace carry
