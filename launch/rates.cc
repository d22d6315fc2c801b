#include "launch/rates.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/memory.h"
#include "framework/nn/language_model.h"
#include "framework/random.h"
#include "framework/train/learner.h"
#include "kernels/parallel_for.h"
#include "launch/device_rates.h"
#include "launch/step_profile.h"

namespace carry {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

struct NamedRate {
  const char* name;
  double RankRates::*rate;
  bool may_be_zero;
};
constexpr NamedRate kRates[] = {
    {"products", &RankRates::products, false},
    {"scan_forward", &RankRates::scan_forward, false},
    {"scan_backward", &RankRates::scan_backward, false},
    {"summary", &RankRates::summary, true},
    {"gradient_summary", &RankRates::gradient_summary, true},
    {"other_forward", &RankRates::other_forward, false},
    {"other_backward", &RankRates::other_backward, false},
    {"memory", &RankRates::memory, false},
    {"message_seconds", &RankRates::message_seconds, false},
    {"message_bytes", &RankRates::message_bytes, false},
};

// Work and time of the ops of a phase.
struct Ops {
  double flops = 0, product_seconds = 0;
  double scan_elements = 0, scan_seconds = 0;
  double summary_elements = 0, summary_seconds = 0;
  double seconds = 0;  // of the phase

  // Of what is neither product, nor scan, nor summary.
  double Other() const {
    return std::max(seconds - product_seconds - scan_seconds - summary_seconds,
                    0.01 * seconds);
  }
};

void Add(const StepProfile& profile, double seconds, Ops* ops) {
  ops->seconds += seconds;
  for (const StepPart& part : profile.Parts()) {
    const auto elements = static_cast<double>(part.work.elements);
    if (part.product()) {
      ops->flops += part.flops();
      ops->product_seconds += part.seconds;
    } else if (std::strstr(part.work.name, "summary") != nullptr) {
      ops->summary_elements += elements;
      ops->summary_seconds += part.seconds;
    } else if (elements > 0) {
      ops->scan_elements += elements;
      ops->scan_seconds += part.seconds;
    }
  }
}

// One layer of the model, run the way that PREFIX does where it can, so that
// the summary passes are in it.
class Probe {
 public:
  Probe(const config::Model& config, DType dtype, int64_t tokens)
      : model_(OneLayer(config), dtype), data_(RandomTokens(tokens)) {
    model_.Allocate(1, /*gradients=*/true);
  }

  void Run(Ops* forward, Ops* backward) {
    Tape tape(true);
    const LanguageModel::Hidden in =
        model_.Embed(tape, data_.tokens.as<int32_t>(), data_.info);
    LanguageModel::Hidden out;
    {
      const StepProfile profile;
      const Clock::time_point begin = Clock::now();
      out = Layer(tape, in);
      Add(profile, Since(begin), forward);
    }
    const Tensor& delta = out.delta.value();
    out.delta.SetGrad(delta.Clone());
    out.residual.SetGrad(out.residual.value().Clone());
    const StepProfile profile;
    const Clock::time_point begin = Clock::now();
    CARRY_CHECK(tape.RunBackward().ok());
    Add(profile, Since(begin), backward);
  }

  int64_t TapeBytes() const {
    return model_.TapeBytesPerToken() * data_.info.time;
  }
  const LanguageModel& model() const { return model_; }

 private:
  static constexpr int64_t kVocabulary = 256;

  static config::Model OneLayer(config::Model model) {
    model.set_num_layers(1);
    model.set_vocab_size(kVocabulary);
    return model;
  }

  static ChunkData RandomTokens(int64_t count) {
    std::vector<int32_t> ids(count);
    for (int64_t i = 0; i < count; ++i) {
      ids[i] = static_cast<int32_t>(
          UniformBelow(kVocabulary, 1, 0, static_cast<uint64_t>(i)));
    }
    SequenceBatch batch;
    batch.batch = 1;
    batch.length = batch.stride = count;
    batch.tokens = ids.data();
    return ChunkData(batch, {0, 0, count});
  }

  LanguageModel::Hidden Layer(Tape& tape, const LanguageModel::Hidden& in) {
    const ChunkInfo& chunk = data_.info;
    LinearCarry* linear = model_.mixer(0).linear_carry();
    if (linear == nullptr) {
      CarryVars out;
      return model_.Layer(tape, 0, in, chunk, {},
                          Carry::Empty(model_.carry_spec(0), 1), &out);
    }
    Var normed;
    LanguageModel::Hidden hidden = model_.BeginLayer(tape, 0, in, &normed);
    const std::shared_ptr<LinearCarry::Run> run =
        linear->Begin(tape, normed, chunk);
    const Tensor summary = Tensor::Empty({linear->SummarySize(1)}, DType::kF32);
    linear->Enter(tape, *run, Var(), Tensor());
    linear->Summarize(*run, summary.f32());
    linear->Scan(tape, *run, Var(), Tensor());
    tape.Record([=]() {
      linear->SummarizeGrad(*run, summary.f32());
      return absl::OkStatus();
    });
    hidden.delta = linear->Finish(tape, *run);
    return hidden;
  }

  LanguageModel model_;
  ChunkData data_;
};

double MeasureCopy() {
  if (DefaultDevice() != Device::kCpu) return MeasureDeviceCopy();
  constexpr int64_t kBytes = int64_t{32} << 20, kPiece = int64_t{1} << 20;
  const std::vector<char> from(kBytes, 1);
  std::vector<char> to(kBytes);
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < 3; ++i) {
    const Clock::time_point begin = Clock::now();
    ParallelFor(kBytes / kPiece, [&](int64_t piece) {
      std::memcpy(to.data() + piece * kPiece, from.data() + piece * kPiece,
                  kPiece);
    });
    best = std::min(best, Since(begin));
  }
  return 2.0 * kBytes / best;
}

// Tokens of a probe: a chunk, but no more than take about a tenth of a second
// on a slow core.
int64_t ProbeTokens(const config::Recipe& recipe) {
  const LanguageModel model(recipe.model(), ActivationDType(recipe));
  const double flops =
      static_cast<double>(model.MatMulFlopsPerToken()) / model.layers();
  const auto affordable = static_cast<int64_t>(1e9 / flops);
  return std::clamp<int64_t>(recipe.training().chunk_length(), 1,
                             std::clamp<int64_t>(affordable, 64, 2048));
}

}  // namespace

RankRates MeasureRates(const config::Recipe& recipe) {
  Probe probe(recipe.model(), ActivationDType(recipe), ProbeTokens(recipe));
  Ops forward, backward;
  probe.Run(&forward, &backward);  // allocates and packs
  forward = backward = Ops();
  const Clock::time_point begin = Clock::now();
  for (int run = 0; run < 3 || (run < 100 && Since(begin) < 0.1); ++run) {
    Ops f, b;
    probe.Run(&f, &b);
    if (run == 0 || f.seconds < forward.seconds) forward = f;
    if (run == 0 || b.seconds < backward.seconds) backward = b;
  }
  const auto tape = static_cast<double>(probe.TapeBytes());
  RankRates rates;
  rates.products = (forward.flops + backward.flops) /
                   (forward.product_seconds + backward.product_seconds);
  rates.scan_forward = forward.scan_elements / forward.scan_seconds;
  rates.scan_backward = backward.scan_elements / backward.scan_seconds;
  if (forward.summary_seconds > 0 && backward.summary_seconds > 0) {
    rates.summary = forward.summary_elements / forward.summary_seconds;
    rates.gradient_summary =
        backward.summary_elements / backward.summary_seconds;
  }
  rates.other_forward = tape / forward.Other();
  rates.other_backward = tape / backward.Other();
  rates.memory = MeasureCopy();
  TrimMemoryCache();
  ResetMemoryPeaks();
  rates.message_seconds = 20e-6;
  // In and out of memory that both ranks see, one core at it.
  rates.message_bytes = rates.memory / 4;
  return rates;
}

absl::StatusOr<RankRates> MeasureRates(const config::Recipe& recipe,
                                       Communicator& world) {
  const CommLabel label = {"measurement of rates", -1, -1, ""};
  RankRates rates = MeasureRates(recipe);
  // Everybody is done with its own: what follows is messages alone.
  absl::Status status = world.Barrier(label);
  constexpr int kRounds = 8;
  constexpr int64_t kBytes = 256 << 10;
  const int ranks = world.size();
  std::vector<char> mine(kBytes), all(kBytes * ranks);
  std::vector<double> few, many;  // seconds of a step of a ring
  for (int i = 0; i < kRounds && status.ok() && ranks > 1; ++i) {
    Clock::time_point begin = Clock::now();
    status = world.AllGather(mine.data(), 8, all.data(), label);
    few.push_back(Since(begin) / (ranks - 1));
    begin = Clock::now();
    if (status.ok()) {
      status = world.AllGather(mine.data(), kBytes, all.data(), label);
    }
    many.push_back(Since(begin) / (ranks - 1));
  }
  if (!status.ok()) return status;
  if (ranks > 1) {
    std::sort(few.begin(), few.end());
    std::sort(many.begin(), many.end());
    rates.message_seconds = std::max(few[few.size() / 2], 1e-7);
    rates.message_bytes =
        kBytes / std::max(many[many.size() / 2] - rates.message_seconds, 1e-7);
  }
  std::vector<double> own, every(std::size(kRates) * ranks);
  for (const NamedRate& r : kRates) own.push_back(rates.*r.rate);
  status = world.AllGather(own.data(),
                           static_cast<int64_t>(own.size() * sizeof(double)),
                           every.data(), label);
  if (!status.ok()) return status;
  for (size_t i = 0; i < std::size(kRates); ++i) {
    double& rate = rates.*kRates[i].rate;
    for (int r = 0; r < ranks; ++r) {
      const double other = every[r * std::size(kRates) + i];
      rate = kRates[i].rate == &RankRates::message_seconds
                 ? std::max(rate, other)
                 : std::min(rate, other);
    }
  }
  return rates;
}

std::string RatesText(const RankRates& rates) {
  nlohmann::ordered_json json;
  for (const NamedRate& r : kRates) json[r.name] = rates.*r.rate;
  return json.dump(2) + "\n";
}

absl::StatusOr<RankRates> ParseRates(const std::string& text,
                                     const std::string& source) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        source, ": not a JSON object of rates, as --write-rates makes it"));
  }
  RankRates rates;
  for (const NamedRate& r : kRates) {
    const auto it = json.find(r.name);
    const double value =
        it != json.end() && it->is_number() ? it->get<double>() : NAN;
    if (!std::isfinite(value) || value < 0 || (value == 0 && !r.may_be_zero)) {
      return absl::InvalidArgumentError(
          absl::StrCat(source, ": \"", r.name, "\" must be a number above 0",
                       r.may_be_zero ? ", or 0 where the mixer has none" : ""));
    }
    rates.*r.rate = value;
  }
  return rates;
}

}  // namespace carry
