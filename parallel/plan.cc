#include "parallel/plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "framework/memory.h"
#include "framework/train/learner.h"
#include "framework/train/streamed_pass.h"
#include "kernels/check.h"
#include "parallel/prefix.h"
#include "parallel/seal.h"

namespace carry {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Plays a group of passes through the ranks, each step as soon as what it needs
// is there.
class Player {
 public:
  Player(int64_t ranks, int64_t layers, int64_t chunks, double last,
         const ChunkCosts& costs, Timeline* timeline)
      : ranks_(ranks),
        layers_(layers),
        chunks_(chunks),
        last_(last),
        costs_(costs),
        timeline_(*timeline),
        now_(ranks, 0.0) {}

  // After what was played before.
  void Play(int64_t passes, int64_t tapes) {
    forward_.assign(passes * chunks_ * layers_, kNever);
    backward_ = forward_;
    unit_.assign(ranks_, 0);
    std::vector<std::vector<StreamStep>> steps;
    for (int64_t r = 0; r < ranks_; ++r) {
      const int64_t mine = chunks_ > r ? CeilDiv(chunks_ - r, ranks_) : 0;
      const bool has_last = (chunks_ - 1) % ranks_ == r;
      steps.push_back(StreamOrder(mine, passes, tapes,
                                  HoldTapes(has_last, ranks_, layers_)));
    }
    // Each rank as far as its neighbours let it, round and round.
    std::vector<size_t> next(ranks_, 0);
    for (bool moved = true; moved;) {
      moved = false;
      for (int64_t r = 0; r < ranks_; ++r) {
        for (; next[r] < steps[r].size(); ++next[r], unit_[r] = 0) {
          const int64_t before = unit_[r];
          const bool done = Run(r, steps[r][next[r]]);
          moved |= done || unit_[r] > before;
          if (!done) break;
        }
      }
    }
    for (int64_t r = 0; r < ranks_; ++r) {
      CARRY_CHECK(next[r] == steps[r].size());
    }
  }

  double Last() const { return *std::max_element(now_.begin(), now_.end()); }

 private:
  static constexpr double kNever = -1;

  double& At(std::vector<double>& times, int64_t pass, int64_t chunk,
             int64_t layer) {
    return times[(pass * chunks_ + chunk) * layers_ + layer];
  }
  void Work(int64_t rank, double after, double seconds) {
    now_[rank] = std::max(now_[rank], after) + seconds;
    timeline_.busy[rank] += seconds;
  }

  // False: it waits for what has not been played yet; unit_ says where it is.
  bool Run(int64_t rank, const StreamStep& step) {
    const int64_t chunk = rank + step.span * ranks_;
    const double share = chunk + 1 == chunks_ ? last_ : 1;
    const bool back = step.kind == StreamStep::kBackward;
    const int64_t from = back ? chunk + 1 : chunk - 1;
    const bool alone =
        step.kind == StreamStep::kRerun || from < 0 || from >= chunks_;
    std::vector<double>& times = back ? backward_ : forward_;
    // Backward begins with the head.
    for (int64_t& unit = unit_[rank]; unit < layers_ + (back ? 1 : 0); ++unit) {
      if (back && unit == 0) {
        Work(rank, 0, costs_.head * share);
        continue;
      }
      const int64_t l = back ? layers_ - unit : unit;
      double after = 0;
      if (!alone) {
        after = At(times, step.pass, from, l);
        if (after == kNever) return false;
        after += costs_.message;
      }
      Work(rank, after, (back ? costs_.backward : costs_.forward) * share);
      if (step.kind != StreamStep::kRerun) {
        At(times, step.pass, chunk, l) = now_[rank];
      }
    }
    return true;
  }

  const int64_t ranks_, layers_, chunks_;
  const double last_;
  const ChunkCosts& costs_;
  Timeline& timeline_;
  std::vector<double> now_;                 // by rank
  std::vector<double> forward_, backward_;  // when a carry was ready
  std::vector<int64_t> unit_;               // by rank, within its step
};

// What a recipe's step consists of.
struct Step : StepCut {
  explicit Step(const config::Recipe& recipe)
      : StepCut(recipe),
        training(recipe.training()),
        model(recipe.model(), ActivationDType(recipe)),
        layers(model.layers()),
        vocab(recipe.model().vocab_size()),
        hidden(recipe.model().hidden_size()),
        carried(recipe.data().packing() == config::Data::CARRIED) {
    for (int64_t l = 0; l < layers; ++l) {
      carry_floats.push_back(CarrySize(model.carry_spec(l)));
    }
    head_flops = 2.0 * static_cast<double>(vocab * hidden);
    layer_flops =
        (static_cast<double>(model.MatMulFlopsPerToken()) - head_flops) /
        static_cast<double>(layers);
    layer_bytes = static_cast<double>(model.TapeBytesPerToken()) /
                  static_cast<double>(layers);
    if (LinearCarry* linear = model.mixer(0).linear_carry()) {
      const CarrySpec& spec = model.carry_spec(0);
      summary_floats = linear->SummarySize(1);
      const carry::Shape& halo = spec[linear->halo_field()].shape;
      halo_floats = halo[0] * halo[1];
      halo_width = halo[1];
      scan_elements =
          static_cast<double>(CarrySize({spec[linear->state_field()]}));
    } else {
      // All that it carries counts as a recurrence.
      scan_elements = static_cast<double>(carry_floats[0]);
    }
  }

  double Forward(const RankRates& r) const {  // of a layer and token
    return layer_flops / r.products + scan_elements / r.scan_forward +
           layer_bytes / r.other_forward;
  }
  double Backward(const RankRates& r) const {
    return 2 * layer_flops / r.products + scan_elements / r.scan_backward +
           layer_bytes / r.other_backward;
  }
  // Loss and gradient; the logits are written, read and overwritten.
  double Head(const RankRates& r) const {
    return 3 * head_flops / r.products +
           static_cast<double>(vocab) * 12 / r.memory;
  }

  const config::Training& training;
  LanguageModel model;
  int64_t layers, vocab, hidden;
  bool carried;
  std::vector<int64_t> carry_floats;  // of a sequence, by layer
  // Of a token: the head's, and one layer's.
  double head_flops = 0, layer_flops = 0, scan_elements = 0, layer_bytes = 0;
  // Of a sequence and layer; 0: the mixer has no summary.
  int64_t summary_floats = 0, halo_floats = 0, halo_width = 0;
};

// Rows of each pass of a data index.
std::vector<int64_t> PassRows(const Step& s, int64_t data_index) {
  const int64_t all = s.training.batch_size();
  int64_t rows = all * (data_index + 1) / s.data - all * data_index / s.data;
  std::vector<int64_t> passes;
  int64_t most = s.training.micro_batch_size();
  if (most <= 0) most = std::max<int64_t>(rows, 1);
  for (; rows > 0; rows -= most) passes.push_back(std::min(rows, most));
  return passes;
}

int64_t WavefrontBytes(const Step& s, int64_t rows) {
  int64_t layer_sum = 0;  // of one edge
  for (int64_t floats : s.carry_floats) {
    layer_sum += rows * floats * 4 + kSealBytes;
  }
  int64_t bytes = 2 * (s.chunks - 1) * layer_sum;
  if (s.carried && (s.chunks - 1) % s.ranks != 0) bytes += layer_sum;
  return bytes;
}

int64_t PrefixBytes(const Step& s, int64_t rows) {
  const int64_t summary = rows * s.summary_floats * 4 + kSealBytes;
  const int64_t each =
      rows * s.halo_floats / std::max<int64_t>(s.halo_width, 1);
  int64_t last = 0;  // rank with tokens
  int64_t halos = 0;
  // Each shard needs halo_width inputs of those on its left, a message from
  // each that has some; rank 0 has those before the sequence too, whose
  // gradient nobody needs.
  for (int64_t to = 1; to < s.ranks; ++to) {
    const ChunkSpan span = PrefixShard(s.length, s.ranks, to);
    if (span.begin == span.end) break;
    last = to;
    for (int64_t from = 0; from < to; ++from) {
      const ChunkSpan of = PrefixShard(s.length, s.ranks, from);
      const int64_t edge = span.begin - s.halo_width;
      for (const int64_t begin :
           {from == 0 ? -s.halo_width : of.begin, of.begin}) {
        const int64_t inputs = of.end - std::max(begin, edge);
        if (inputs > 0) halos += inputs * each * 4 + kSealBytes;
      }
    }
  }
  int64_t bytes = s.layers * (2 * s.ranks * (s.ranks - 1) * summary + halos);
  if (s.carried && last > 0) {
    for (int64_t floats : s.carry_floats) {
      bytes += rows * floats * 4 + kSealBytes;
    }
  }
  return bytes;
}

// Gradients and weights; a step's losses and norms.
int64_t OtherBytes(const Step& s, bool prefix) {
  const int64_t world = s.data * s.ranks;
  const std::vector<Range>& buckets = s.model.parameters().buckets();
  int64_t floats = 0;
  for (const Range& bucket : buckets) floats += bucket.size();
  const int64_t sums = s.training.batch_size() * (prefix ? s.ranks : s.chunks) +
                       static_cast<int64_t>(buckets.size());
  return 2 * 4 * floats * (world - 1) + 8 * sums * world * (world - 1);
}

// After the passes: reduction, update, gather, the weights packed anew.
double UpdateSeconds(const Step& s, const RankRates& rates) {
  const auto world = static_cast<double>(s.data * s.ranks);
  const auto n = static_cast<double>(s.model.parameters().size());
  const double packed = 2.0 * n * (4 + SizeOf(s.model.activations()));
  // AdamW reads four arrays and writes three; a norm reads one.
  double seconds = (32 * n / world + packed) / rates.memory;
  if (world > 1) {
    const auto buckets =
        static_cast<double>(s.model.parameters().buckets().size());
    seconds += 8 * n * (world - 1) / world / rates.message_bytes +
               4 * n * (world - 1) / world / rates.memory +
               (2 * buckets + 2 * (world - 1)) * rates.message_seconds;
  }
  return seconds;
}

void PlayChunks(const Step& s, const RankRates& rates, StepPlan* plan,
                double* busy) {
  const auto tokens = static_cast<double>(s.batch * s.chunk);
  ChunkCosts costs;
  costs.forward = tokens * s.Forward(rates);
  costs.backward = tokens * s.Backward(rates);
  costs.head = tokens * s.Head(rates);
  costs.message = rates.message_seconds +
                  static_cast<double>(s.batch * s.carry_floats[0] * 4) /
                      rates.message_bytes;
  const double last = static_cast<double>(s.length - (s.chunks - 1) * s.chunk) /
                      static_cast<double>(s.chunk);
  const int64_t tapes =
      KeptTapes(s.model, s.batch, s.chunk, s.training.tape_memory_budget());
  const Timeline timeline =
      PlayWavefront(s.ranks, s.layers, s.chunks, last, s.passes, tapes, costs);
  plan->seconds = timeline.seconds;
  *busy = std::accumulate(timeline.busy.begin(), timeline.busy.end(), 0.0) /
          static_cast<double>(s.ranks);
}

void PlayShards(const Step& s, const RankRates& rates, StepPlan* plan,
                double* busy) {
  const auto ranks = static_cast<double>(s.ranks);
  const auto longest =
      static_cast<double>(s.batch * CeilDiv(s.length, s.ranks));
  const double average = static_cast<double>(s.batch * s.length) / ranks;
  const auto layers = static_cast<double>(s.layers);
  const double tape = s.layer_bytes * longest;
  const double kept = std::clamp(
      std::floor(static_cast<double>(s.training.tape_memory_budget()) / tape),
      1.0, layers);
  const double token = layers * (s.Forward(rates) + s.Backward(rates) +
                                 s.scan_elements / rates.summary +
                                 s.scan_elements / rates.gradient_summary) +
                       (layers - kept) * s.Forward(rates) + s.Head(rates);
  const auto rows = static_cast<double>(s.batch);
  // A ring of summaries and a halo, forward and backward.
  const double gather =
      (ranks - 1) *
      (rates.message_seconds +
       rows * static_cast<double>(s.summary_floats) * 4 / rates.message_bytes);
  const double halo =
      rates.message_seconds +
      rows * static_cast<double>(s.halo_floats) * 4 / rates.message_bytes;
  // Folding reads and writes the state and reads the summary and the rates.
  const double fold = (ranks - 1) * rows * s.scan_elements * 16 / rates.memory;
  const auto passes = static_cast<double>(s.passes);
  plan->seconds =
      passes * (longest * token + 2 * layers * (gather + halo + fold));
  *busy = passes * average * token;
}

}  // namespace

double Timeline::Idle() const {
  if (seconds <= 0 || busy.empty()) return 0;
  const double sum = std::accumulate(busy.begin(), busy.end(), 0.0);
  return 1 - sum / (seconds * static_cast<double>(busy.size()));
}

Timeline PlayWavefront(int64_t ranks, int64_t layers, int64_t chunks,
                       double last, int64_t passes, int64_t tapes,
                       const ChunkCosts& costs) {
  Timeline timeline;
  timeline.busy.assign(ranks, 0.0);
  Player player(ranks, layers, chunks, last, costs, &timeline);
  const int64_t together = PassesInFlight(passes, ranks, layers);
  for (int64_t m = 0; m < passes; m += together) {
    player.Play(std::min(together, passes - m), tapes);
  }
  timeline.seconds = player.Last();
  return timeline;
}

StepPlan PlanStep(const config::Recipe& recipe, const RankRates& rates,
                  int64_t memory) {
  Step s(recipe);
  StepPlan plan;
  plan.parallel = recipe.parallel();
  const bool prefix =
      s.ranks > 1 && recipe.parallel().schedule() == config::Parallel::PREFIX;
  CARRY_CHECK(s.ranks == 1 ||
              recipe.parallel().schedule() != config::Parallel::AUTO);
  plan.memory = PlanTrainingMemory(recipe);
  if (prefix && s.summary_floats == 0) {
    plan.refused = "this model's mixer has no summary of a shard";
  } else if (plan.memory.total() > memory) {
    plan.refused = absl::StrCat("needs ", FormatBytes(plan.memory.total()),
                                " a rank, ", FormatBytes(memory), " are there");
  } else if (s.data > s.training.batch_size()) {
    plan.refused =
        absl::StrCat("training.batch_size is ", s.training.batch_size(),
                     ": ranks without rows");
  }
  for (int64_t d = 0; d < s.data && s.ranks > 1; ++d) {
    for (int64_t rows : PassRows(s, d)) {
      plan.carry_bytes +=
          prefix ? PrefixBytes(s, rows) : WavefrontBytes(s, rows);
    }
  }
  if (s.data * s.ranks > 1) plan.other_bytes = OtherBytes(s, prefix);
  if (prefix && s.summary_floats == 0) return plan;
  double busy = 0;
  if (prefix) {
    PlayShards(s, rates, &plan, &busy);
  } else {
    PlayChunks(s, rates, &plan, &busy);
  }
  const double update = UpdateSeconds(s, rates);
  plan.seconds += update;
  plan.idle = 1 - (busy + update) / plan.seconds;
  plan.tokens_per_second =
      static_cast<double>(s.training.batch_size() * s.length) / plan.seconds;
  return plan;
}

ScheduleChoice ChooseSchedule(const config::Recipe& recipe,
                              const RankRates& rates, int64_t memory) {
  // The bits of one rank are worth this much.
  constexpr double kMargin = 1.03;
  config::Recipe tried = recipe;
  tried.mutable_parallel()->set_schedule(config::Parallel::WAVEFRONT);
  if (recipe.parallel().sequence() <= 1) {
    return {config::Parallel::WAVEFRONT, "one rank has each sequence"};
  }
  const StepPlan wavefront = PlanStep(tried, rates, memory);
  tried.mutable_parallel()->set_schedule(config::Parallel::PREFIX);
  const StepPlan prefix = PlanStep(tried, rates, memory);
  if (!prefix.refused.empty()) {
    return {config::Parallel::WAVEFRONT,
            absl::StrCat("PREFIX is out: ", prefix.refused)};
  }
  if (!wavefront.refused.empty()) {
    return {config::Parallel::PREFIX,
            absl::StrCat("WAVEFRONT is out: ", wavefront.refused)};
  }
  const bool faster = wavefront.seconds > kMargin * prefix.seconds;
  return {faster ? config::Parallel::PREFIX : config::Parallel::WAVEFRONT,
          absl::StrFormat(
              "a step of WAVEFRONT is expected to take %.3g s with %.1f%% "
              "idle, of PREFIX %.3g s",
              wavefront.seconds, 100 * wavefront.idle, prefix.seconds)};
}

}  // namespace carry
