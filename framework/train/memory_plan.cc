#include "framework/train/memory_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "framework/memory.h"
#include "framework/ops/linear_cross_entropy.h"
#include "framework/train/carry_exchange.h"
#include "framework/train/learner.h"
#include "framework/train/streamed_pass.h"

namespace carry {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t PackedBytes(int64_t parameters, DType dtype) {
  // A GPU's products take fp32 weights as they are.
  if (!BackendOf(DefaultDevice()).one_pack()) {
    return 2 * parameters * SizeOf(dtype);
  }
  return dtype == DType::kF32 ? 0 : parameters * SizeOf(dtype);
}

// What the plan needs of a recipe and its model.
struct Sizes : StepCut {
  explicit Sizes(const config::Recipe& recipe)
      : StepCut(recipe),
        dtype(ActivationDType(recipe)),
        model(recipe.model(), dtype),
        budget(recipe.training().tape_memory_budget()) {
    for (int64_t l = 0; l < model.layers(); ++l) {
      carry += CarrySize(model.carry_spec(l)) * 4;
    }
  }

  DType dtype;
  LanguageModel model;
  int64_t budget;
  int64_t carry = 0;  // bytes of one sequence, all layers
};

void PlanChunks(Sizes& s, MemoryPlan* plan) {
  const int64_t chunks = CeilDiv(s.chunks, s.ranks);
  const int64_t passes = PassesInFlight(s.passes, s.ranks, s.model.layers());
  const int64_t kept =
      std::min(chunks * passes, KeptTapes(s.model, s.batch, s.chunk, s.budget));
  plan->tape = kept * s.batch * s.chunk * s.model.TapeBytesPerToken();
  plan->edge_carries = passes * chunks * s.batch * s.carry;
  if (s.ranks == 1) return;
  // Receives of a chunk's layers and sends that are still on their way.
  plan->messages +=
      2 * passes * (s.batch * s.carry + s.model.layers() * kSealBytes);
}

void PlanShard(Sizes& s, MemoryPlan* plan) {
  const int64_t tokens = s.batch * CeilDiv(s.length, s.ranks);
  const int64_t layers = s.model.layers();
  const int64_t layer_tape = tokens * s.model.TapeBytesPerToken() / layers;
  plan->tape =
      layer_tape * std::clamp<int64_t>(
                       s.budget / std::max<int64_t>(layer_tape, 1), 1, layers);
  // The residual stream into each layer and out of the last, and each delta;
  // in backward, gradients of the stream above and below a layer.
  plan->inputs = tokens * s.model.config().hidden_size() *
                 ((layers + 1) * (4 + SizeOf(s.dtype)) + 12);
  plan->edge_carries = s.batch * s.carry;
  LinearCarry* linear = s.model.mixer(0).linear_carry();
  if (linear != nullptr) {
    plan->messages +=
        (s.ranks + 1) * (linear->SummarySize(s.batch) * 4 + kSealBytes);
  }
}

}  // namespace

StepCut::StepCut(const config::Recipe& recipe) {
  const config::Training& training = recipe.training();
  data = std::max<int64_t>(1, recipe.parallel().data());
  ranks = std::max<int64_t>(1, recipe.parallel().sequence());
  rows = CeilDiv(training.batch_size(), data);
  batch = training.micro_batch_size() > 0
              ? std::min(training.micro_batch_size(), rows)
              : rows;
  passes = CeilDiv(rows, batch);
  length = training.sequence_length();
  chunk = training.chunk_length() > 0
              ? std::min(training.chunk_length(), length)
              : length;
  chunks = CeilDiv(length, chunk);
}

std::vector<MemoryPlan::Part> MemoryPlan::Parts() const {
  return {{"parameters", parameters},
          {"packed copies", packed},
          {"gradients", gradients},
          {"optimizer", optimizer},
          {"tape", tape},
          {"logits slice", head},
          {"edge carries", edge_carries},
          {"layer inputs", inputs},
          {"messages", messages},
          {"tokens", tokens}};
}

int64_t MemoryPlan::total() const {
  int64_t sum = 0;
  for (const Part& part : Parts()) sum += part.bytes;
  return sum;
}

std::string MemoryPlan::ToString() const {
  std::string text = FormatBytes(total());
  const char* separator = ": ";
  for (const Part& part : Parts()) {
    if (part.bytes == 0) continue;
    absl::StrAppend(&text, separator, part.name, " ", FormatBytes(part.bytes));
    separator = ", ";
  }
  return text;
}

MemoryPlan PlanTrainingMemory(const config::Recipe& recipe) {
  Sizes s(recipe);
  const int64_t parameters = s.model.parameters().size();
  const int64_t world = s.data * s.ranks;
  MemoryPlan plan;
  plan.parameters = parameters * 4;
  plan.packed = PackedBytes(parameters, s.dtype);
  plan.gradients = plan.parameters;
  plan.optimizer = CeilDiv(2 * plan.parameters, world);
  // What other ranks send of this rank's part of all gradients.
  plan.messages = plan.gradients / world * (world - 1);
  const bool prefix =
      s.ranks > 1 && recipe.parallel().schedule() == config::Parallel::PREFIX;
  if (prefix) {
    PlanShard(s, &plan);
  } else {
    PlanChunks(s, &plan);
  }
  const int64_t vocab = recipe.model().vocab_size();
  const int64_t rows =
      s.batch * (prefix ? CeilDiv(s.length, s.ranks) : s.chunk);
  plan.head = CrossEntropyBytes(rows, vocab, s.dtype);
  plan.tokens = s.rows * s.length * (4 + 4 + 1);
  return plan;
}

absl::Status CheckMemory(const MemoryPlan& plan, const config::Recipe& recipe,
                         int64_t available, int ranks) {
  const int64_t budget = recipe.parallel().memory_budget();
  const int64_t limit = budget > 0 ? budget : available;
  if (plan.total() <= limit) return absl::OkStatus();
  const bool prefix = recipe.parallel().sequence() > 1 &&
                      recipe.parallel().schedule() == config::Parallel::PREFIX;
  return absl::ResourceExhaustedError(absl::StrCat(
      "this recipe needs about ", plan.ToString(), "; ", FormatBytes(limit),
      budget > 0  ? " are allowed by parallel.memory_budget"
      : ranks > 1 ? absl::StrCat(" are available to each of ", ranks,
                                 " ranks on this machine")
                  : std::string(" are available"),
      ". Lower ",
      prefix ? "training.sequence_length or training.micro_batch_size (tape "
               "and layer inputs: they grow with the shard; parallel.schedule "
               "WAVEFRONT holds one chunk)"
             : "training.chunk_length, training.micro_batch_size or "
               "training.tape_memory_budget (tape)",
      ", or model.hidden_size and model.num_layers (parameters, gradients, "
      "optimizer)"));
}

}  // namespace carry
