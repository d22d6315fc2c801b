// Small random models and batches for tests.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "framework/nn/language_model.h"
#include "framework/random.h"
#include "framework/train/streamed_pass.h"
#include "gtest/gtest.h"

namespace carry {

// Odd on purpose: no size is a multiple of a vector.
inline config::Model TinyModelConfig() {
  config::Model model;
  model.set_hidden_size(12);
  model.set_num_layers(3);
  model.set_vocab_size(37);
  model.set_initializer_range(0.5);
  model.mutable_mamba()->set_state_size(5);
  model.mutable_mamba()->set_conv_kernel(4);
  EXPECT_TRUE(ResolveModel(&model).ok());
  return model;
}

inline std::unique_ptr<LanguageModel> TinyModel(DType dtype = DType::kF32,
                                                uint64_t seed = 1) {
  auto model = std::make_unique<LanguageModel>(TinyModelConfig(), dtype);
  model->Allocate(seed, /*gradients=*/true);
  return model;
}

// Random tokens; documents start at random, at least as often as 1 in
// `mean_document` tokens; a target is the next token of the same document.
struct TinyBatch {
  TinyBatch(int64_t batch, int64_t length, int64_t vocab, int64_t mean_document,
            uint64_t seed = 7) {
    for (int64_t i = 0; i < batch * length; ++i) {
      tokens.push_back(static_cast<int32_t>(UniformBelow(vocab, seed, 0, i)));
      starts.push_back(mean_document > 0 &&
                       UniformBelow(mean_document, seed, 1, i) == 0);
    }
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t t = 0; t < length; ++t) {
        const int64_t i = b * length + t;
        const bool has = t + 1 < length && !starts[i + 1];
        targets.push_back(has ? tokens[i + 1] : -1);
        count += has;
      }
    }
    view.batch = batch;
    view.length = view.stride = length;
    view.tokens = tokens.data();
    view.targets = targets.data();
    view.document_start = starts.data();
  }
  TinyBatch(const TinyBatch&) = delete;

  std::vector<int32_t> tokens, targets;
  std::vector<uint8_t> starts;
  int64_t count = 0;  // targets
  SequenceBatch view;
};

inline std::vector<float> Values(const Tensor& t) {
  const absl::StatusOr<Tensor> host = (t.contiguous() ? t : t.Clone()).ToHost();
  EXPECT_TRUE(host.ok()) << host.status();
  if (!host.ok()) return {};
  const Tensor& dense = *host;
  std::vector<float> values(dense.size());
  for (int64_t i = 0; i < dense.size(); ++i) {
    values[i] = dense.dtype() == DType::kBF16 ? ToFloat(dense.as<BFloat16>()[i])
                                              : dense.f32()[i];
  }
  return values;
}

// max |a - b| relative to the largest magnitude of b.
template <typename A, typename B>
double RelativeError(const std::vector<A>& a, const std::vector<B>& b) {
  EXPECT_EQ(a.size(), b.size());
  double error = 0, largest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference =
        std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    // A NaN must not pass.
    error = difference <= error ? error : difference;
    largest = std::max(largest, std::abs(static_cast<double>(b[i])));
  }
  return largest > 0 ? error / largest : error;
}

// A carry a layer with random values.
inline std::vector<Carry> RandomCarries(const LanguageModel& model,
                                        int64_t batch, uint64_t seed) {
  std::vector<Carry> carries;
  for (int64_t l = 0; l < model.layers(); ++l) {
    carries.push_back(Carry::Empty(model.carry_spec(l), batch));
    for (int64_t i = 0; i < carries[l].flat().size(); ++i) {
      carries[l].flat().f32()[i] = static_cast<float>(0.5 * Normal(seed, l, i));
    }
  }
  return carries;
}

}  // namespace carry
