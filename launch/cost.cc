#include "launch/cost.h"

#include <algorithm>

#include "framework/train/learner.h"
#include "framework/train/streamed_pass.h"

namespace carry {

RecipeCost CostOf(const config::Recipe& recipe) {
  const config::Training& t = recipe.training();
  const LanguageModel model(recipe.model(), ActivationDType(recipe));
  RecipeCost cost;
  cost.parameters = model.NumParameters();
  cost.tokens_per_step = t.batch_size() * t.sequence_length();
  for (int64_t layer = 0; layer < model.layers(); ++layer) {
    cost.carry_bytes += CarrySize(model.carry_spec(layer)) * 4;
  }
  cost.forward_flops = static_cast<double>(model.MatMulFlopsPerToken());

  const int64_t chunks =
      (t.sequence_length() + t.chunk_length() - 1) / t.chunk_length();
  const int64_t kept =
      std::min(chunks, KeptTapes(model, t.micro_batch_size(), t.chunk_length(),
                                 t.tape_memory_budget()));
  const double again =
      static_cast<double>(t.batch_size()) * (chunks - kept) * t.chunk_length();
  const double head =
      2.0 * recipe.model().vocab_size() * recipe.model().hidden_size();
  cost.step_flops = 3 * cost.forward_flops * cost.tokens_per_step +
                    (cost.forward_flops - head) * again;
  return cost;
}

}  // namespace carry
