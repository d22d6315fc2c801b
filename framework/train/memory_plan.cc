#include "framework/train/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "framework/memory.h"
#include "framework/ops/linear_cross_entropy.h"
#include "framework/train/learner.h"
#include "framework/train/streamed_pass.h"

namespace carry {
std::string MemoryPlan::ToString() const {
  return absl::StrCat(
      FormatBytes(total()), ": parameters ", FormatBytes(parameters),
      ", packed copies ", FormatBytes(packed), ", gradients ",
      FormatBytes(gradients), ", optimizer ", FormatBytes(optimizer), ", tape ",
      FormatBytes(tape), ", logits slice ", FormatBytes(head),
      ", edge carries ", FormatBytes(edge_carries), ", tokens ",
      FormatBytes(tokens));
}

MemoryPlan PlanTrainingMemory(const config::Recipe& recipe) {
  const config::Training& training = recipe.training();
  const DType dtype = ActivationDType(recipe);
  const LanguageModel model(recipe.model(), dtype);
  const int64_t length = training.sequence_length();
  const int64_t data = std::max<int64_t>(1, recipe.parallel().data());
  const int64_t sequence = std::max<int64_t>(1, recipe.parallel().sequence());
  const int64_t rows = (training.batch_size() + data - 1) / data;
  const int64_t batch = training.micro_batch_size() > 0
                            ? std::min(training.micro_batch_size(), rows)
                            : rows;
  const int64_t chunk = training.chunk_length() > 0
                            ? std::min(training.chunk_length(), length)
                            : length;
  // Of this rank.
  const int64_t chunks =
      ((length + chunk - 1) / chunk + sequence - 1) / sequence;
  const int64_t kept = std::min(
      chunks, KeptTapes(model, batch, chunk, training.tape_memory_budget()));

  MemoryPlan plan;
  plan.parameters = model.parameters().size() * 4;
  plan.packed = 2 * model.parameters().size() * SizeOf(dtype);
  plan.gradients = plan.parameters;
  plan.optimizer = 2 * plan.parameters / (data * sequence);
  plan.tape = kept * batch * chunk * model.TapeBytesPerToken();
  const int64_t vocab = recipe.model().vocab_size();
  // Logits, and their gradient where it is narrower.
  plan.head = CrossEntropySliceRows(batch * chunk, vocab) * vocab *
              (4 + (dtype == DType::kF32 ? 0 : SizeOf(dtype)));
  int64_t carry = 0;
  for (int64_t l = 0; l < model.layers(); ++l) {
    carry += CarrySize(model.carry_spec(l)) * 4;
  }
  plan.edge_carries = chunks * batch * carry;
  plan.tokens = rows * length * (4 + 4 + 1);
  return plan;
}

absl::Status CheckMemory(const MemoryPlan& plan, int64_t available) {
  if (plan.total() <= available) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      "this recipe needs about ", plan.ToString(), "; ", FormatBytes(available),
      " are available. Lower training.chunk_length, "
      "training.micro_batch_size or training.tape_memory_budget (tape), or "
      "model.hidden_size and model.num_layers (parameters, gradients, "
      "optimizer)"));
}

}  // namespace carry
