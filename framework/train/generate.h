// Generation in constant time and memory a token.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "framework/nn/language_model.h"

namespace carry {

struct SamplingOptions {
  double temperature = 1;  // 0: the likeliest token
  int64_t top_k = 0;       // 0: all
  double top_p = 1;        // smallest set of tokens with this probability
  uint64_t seed = 0;
};
// An error names the option and its range.
absl::Status CheckSampling(const SamplingOptions& options);

// The token drawn from softmax(logits / temperature) after top-k and top-p,
// with the random number of (seed, index): the same arguments, the same token.
// REQUIRES CheckSampling(options).ok() and finite logits.
int32_t Sample(const float* logits, int64_t vocab,
               const SamplingOptions& options, uint64_t index);

// One sequence whose past is a carry.
class Generator {
 public:
  explicit Generator(LanguageModel& model);

  Generator(const Generator&) = delete;
  ~Generator();

  // Reads tokens, `chunk_length` at once; count >= 1. Afterwards logits() are
  // those of the token that follows. An error is the device's.
  absl::Status Read(const int32_t* tokens, int64_t count, int64_t chunk_length);
  // fp32 [V].
  const float* logits() const { return logits_.f32(); }
  int64_t position() const { return position_; }
  // Whether the last token was read by a recorded step.
  bool recorded() const { return step_ != nullptr; }

 private:
  class RecordedStep;

  LanguageModel& model_;
  std::vector<Carry> carries_;
  // On a GPU: the step of one token, which has the carries once it is made.
  std::unique_ptr<RecordedStep> step_;
  bool single_ = false;  // the last Read was of one token
  Tensor logits_;        // in host memory
  int64_t position_ = 0;
};

}  // namespace carry
