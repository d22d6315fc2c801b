#include "framework/train/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "framework/random.h"
#include "framework/train/streamed_pass.h"

namespace carry {

absl::Status CheckSampling(const SamplingOptions& options) {
  if (!(options.temperature >= 0 && std::isfinite(options.temperature))) {
    return absl::InvalidArgumentError(
        absl::StrCat("temperature is ", options.temperature,
                     "; it must be 0 (the likeliest token) or more"));
  }
  if (options.top_k < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "top-k is ", options.top_k, "; it must be 0 (all tokens) or more"));
  }
  if (!(options.top_p > 0 && options.top_p <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "top-p is ", options.top_p, "; it must be above 0 and at most 1"));
  }
  return absl::OkStatus();
}

int32_t Sample(const float* logits, int64_t vocab,
               const SamplingOptions& options, uint64_t index) {
  CARRY_CHECK(vocab >= 1);
  if (options.temperature == 0) {
    return static_cast<int32_t>(std::max_element(logits, logits + vocab) -
                                logits);
  }
  std::vector<int32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0);
  const bool some = options.top_k > 0 && options.top_k < vocab;
  if (some || options.top_p < 1) {
    // From the likeliest down; equal ones by id.
    const auto likelier = [logits](int32_t a, int32_t b) {
      return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
    };
    const int64_t k = some ? options.top_k : vocab;
    std::partial_sort(order.begin(), order.begin() + k, order.end(), likelier);
    order.resize(k);
  }
  const double top = *std::max_element(logits, logits + vocab);
  std::vector<double> weights;
  double total = 0;
  for (int32_t id : order) {
    weights.push_back(std::exp((logits[id] - top) / options.temperature));
    total += weights.back();
  }
  if (options.top_p < 1) {
    double kept = 0;
    size_t n = 0;
    while (n < weights.size() && kept < options.top_p * total) {
      kept += weights[n++];
    }
    weights.resize(std::max<size_t>(n, 1));
    total = std::max(kept, weights[0]);
  }
  double left =
      Uniform(options.seed, StreamOf("carry.generate"), index) * total;
  for (size_t i = 0; i < weights.size(); ++i) {
    left -= weights[i];
    if (left < 0) return order[i];
  }
  return order[weights.size() - 1];
}

// The step of one token as work that was recorded once: hundreds of kernels
// start as one. It runs in place, from a token and carries to logits and the
// carries after it.
class Generator::RecordedStep {
 public:
  // `carries` are those before the step; one step has run before.
  RecordedStep(LanguageModel& model, const std::vector<Carry>& carries)
      : token_(Tensor::Zeros({1, 1}, DType::kI32, MemoryPart::kData)),
        hold_(token_.device()) {
    ChunkData data;
    data.info.batch = data.info.time = 1;
    data.tokens = token_;
    // Copied outside of what is recorded.
    for (const Carry& carry : carries) {
      carries_.push_back(Carry::Empty(model.carry_spec(carries_.size()), 1));
      carries_.back().flat().CopyFrom(carry.flat());
    }
    Backend& backend = token_.backend();
    backend.BeginRecording();
    std::vector<Carry> after = carries_;
    logits_ = model.Logits(ForwardTokens(model, data, after), true);
    for (size_t l = 0; l < after.size(); ++l) {
      carries_[l].flat().CopyFrom(after[l].flat());
    }
    work_ = backend.EndRecording();
    after.clear();
    hold_.Close();
  }

  absl::StatusOr<Tensor> Run(int32_t token) {
    token_.backend().FromHost(token_.data(), &token, sizeof(token));
    if (work_ != nullptr) work_->Run();
    return logits_.ToHost();
  }
  const std::vector<Carry>& carries() const { return carries_; }

 private:
  Tensor token_, logits_;
  std::vector<Carry> carries_;
  MemoryHold hold_;
  std::unique_ptr<RecordedWork> work_;
};

Generator::Generator(LanguageModel& model) : model_(model) {}
Generator::~Generator() = default;

absl::Status Generator::Read(const int32_t* tokens, int64_t count,
                             int64_t chunk_length) {
  CARRY_CHECK(count >= 1 && chunk_length >= 1);
  if (count == 1 && position_ > 0 && single_ &&
      BackendOf(DefaultDevice()).can_record()) {
    if (step_ == nullptr) {
      step_ = std::make_unique<RecordedStep>(model_, carries_);
    }
    absl::StatusOr<Tensor> logits = step_->Run(tokens[0]);
    if (!logits.ok()) return logits.status();
    logits_ = *std::move(logits);
    ++position_;
    return absl::OkStatus();
  }
  if (step_ != nullptr) {
    carries_ = step_->carries();
    step_ = nullptr;
  }
  single_ = count == 1;
  for (int64_t begin = 0; begin < count; begin += chunk_length) {
    const int64_t end = std::min(begin + chunk_length, count);
    SequenceBatch batch;
    batch.batch = 1;
    batch.length = batch.stride = count;
    batch.tokens = tokens;
    ChunkData data(batch, {0, begin, end});
    data.info.position = position_;
    const LanguageModel::Hidden hidden = ForwardTokens(model_, data, carries_);
    position_ += end - begin;
    if (end < count) continue;
    absl::StatusOr<Tensor> logits =
        model_.Logits(hidden, /*last_only=*/true).ToHost();
    if (!logits.ok()) return logits.status();
    logits_ = *std::move(logits);
  }
  return absl::OkStatus();
}

}  // namespace carry
