#include "launch/step_profile.h"

#include <cstring>
#include <string>

#include "framework/train/learner.h"
#include "gtest/gtest.h"
#include "launch/cost.h"
#include "launch/limits.h"
#include "launch/recipe.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

config::Recipe Recipe() {
  absl::StatusOr<config::Recipe> recipe = ParseRecipe(R"(
      model { hidden_size: 16 num_layers: 3 vocab_size: 256 }
      data { train: "unused" } optimizer { learning_rate: 0.01 }
      training {
        steps: 1 sequence_length: 40 batch_size: 4 micro_batch_size: 2
        chunk_length: 16 tape_memory_budget: 1
      })",
                                                      "tiny", {});
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return *recipe;
}

// Each op of a step is counted once, with its work.
TEST(StepProfile, CountsTheWorkOfAStep) {
  const config::Recipe recipe = Recipe();
  SingleRank ranks;
  Learner learner(recipe, ranks);
  const TinyBatch batch(4, 40, 37, 9);
  std::vector<StepPart> parts;
  {
    StepProfile profile;
    ASSERT_TRUE(learner.Update(batch.view, batch.count, 0).ok());
    parts = profile.Parts();
  }
  double flops = 0;
  int64_t forward = 0, backward = 0, adamw_bytes = 0;
  for (const StepPart& part : parts) {
    const std::string name = part.work.name;
    flops += part.product() ? part.flops() : 0;
    if (name == "scan forward") forward = part.work.elements;
    if (name == "scan backward") backward = part.work.elements;
    if (name == "AdamW") adamw_bytes = part.work.bytes;
    EXPECT_GT(part.seconds, 0) << name;
  }
  // 3 chunks of at most 16 tokens, of which the first two run twice.
  EXPECT_EQ(flops, CostOf(recipe).step_flops);
  const int64_t element = 3 * 32 * 16;  // layers x channels x states
  EXPECT_EQ(backward, 4 * 40 * element);
  EXPECT_EQ(forward, 4 * (40 + 32) * element);
  EXPECT_EQ(adamw_bytes, 28 * learner.model().parameters().size());
}

TEST(Limits, EveryPartHasOne) {
  const config::Recipe recipe = Recipe();
  SingleRank ranks;
  Learner learner(recipe, ranks);
  const TinyBatch batch(4, 40, 37, 9);
  std::vector<StepPart> parts;
  {
    StepProfile profile;
    ASSERT_TRUE(learner.Update(batch.view, batch.count, 0).ok());
    parts = profile.Parts();
  }
  Limits limits(parts);
  limits.Sample();
  for (const StepPart& part : parts) {
    const Limit limit = limits.Of(part);
    EXPECT_GT(limit.seconds, 0) << part.work.name;
    EXPECT_LT(limit.seconds, 1) << part.work.name;
    EXPECT_EQ(limit.name == "oneDNN's best", part.product());
  }
}

}  // namespace
}  // namespace carry
