#include "framework/train/learner.h"

#include <cmath>
#include <limits>

#include "framework/train/generate.h"
#include "gtest/gtest.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

config::Recipe TinyRecipe() {
  config::Recipe recipe;
  *recipe.mutable_model() = TinyModelConfig();
  config::Training& training = *recipe.mutable_training();
  training.set_steps(1000);
  training.set_batch_size(6);
  training.set_seed(3);
  training.set_precision(config::Training::FP32);
  config::Optimizer& optimizer = *recipe.mutable_optimizer();
  optimizer.set_learning_rate(3e-3);
  optimizer.set_beta1(0.9);
  optimizer.set_beta2(0.95);
  optimizer.set_epsilon(1e-8);
  optimizer.set_weight_decay(0.1);
  optimizer.set_max_grad_norm(1);
  optimizer.set_schedule(config::Optimizer::CONSTANT);
  return recipe;
}

std::vector<float> Train(const config::Recipe& recipe, int steps) {
  SingleRank ranks;
  Learner learner(recipe, ranks);
  for (int step = 0; step < steps; ++step) {
    const TinyBatch batch(6, 20, 37, 8, step);
    absl::StatusOr<UpdateResult> result =
        learner.Update(batch.view, batch.count, step);
    EXPECT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->nonfinite, "");
    EXPECT_EQ(result->targets, batch.count);
  }
  return Values(learner.model().parameters().values());
}

TEST(Learner, SameCommandSameBits) {
  const config::Recipe recipe = TinyRecipe();
  EXPECT_TRUE(Train(recipe, 5) == Train(recipe, 5));
  config::Recipe other = recipe;
  other.mutable_training()->set_seed(4);
  EXPECT_FALSE(Train(recipe, 1) == Train(other, 1));
}

TEST(Learner, MicroBatchesAndChunksAddUp) {
  config::Recipe recipe = TinyRecipe();
  // Two updates: enough to see a wrong gradient, too few to amplify rounding.
  const std::vector<float> whole = Train(recipe, 2);
  recipe.mutable_training()->set_micro_batch_size(4);
  EXPECT_LT(RelativeError(Train(recipe, 2), whole), 1e-3);
  recipe.mutable_training()->set_chunk_length(7);
  EXPECT_LT(RelativeError(Train(recipe, 2), whole), 1e-3);
}

TEST(Learner, CarriedRowsGoOnWhereTheyStopped) {
  // Two steps of L tokens with carries kept see what one of 2 L sees.
  config::Recipe recipe = TinyRecipe();
  recipe.mutable_data()->set_packing(config::Data::CARRIED);
  recipe.mutable_optimizer()->set_learning_rate(0);
  recipe.mutable_training()->set_micro_batch_size(2);
  recipe.mutable_training()->set_batch_size(3);
  const TinyBatch both(3, 32, 37, 0);
  SingleRank ranks;
  Learner whole(recipe, ranks), halves(recipe, ranks);
  ASSERT_TRUE(whole.Update(both.view, both.count, 0).ok());
  SequenceBatch half = both.view;
  half.length = 16;
  ASSERT_TRUE(halves.Update(half, both.count, 0).ok());
  const std::vector<Carry> kept = halves.GetCarries();
  half.tokens += 16;
  half.targets += 16;
  half.document_start += 16;
  ASSERT_TRUE(halves.Update(half, both.count, 1).ok());
  for (int64_t l = 0; l < whole.model().layers(); ++l) {
    EXPECT_LT(RelativeError(Values(halves.GetCarries()[l].flat()),
                            Values(whole.GetCarries()[l].flat())),
              1e-5);
  }
  // Set and get are inverses, across micro-batches.
  Learner other(recipe, ranks);
  other.SetCarries(kept);
  ASSERT_TRUE(other.Update(half, both.count, 1).ok());
  for (int64_t l = 0; l < whole.model().layers(); ++l) {
    EXPECT_TRUE(Values(other.GetCarries()[l].flat()) ==
                Values(halves.GetCarries()[l].flat()));
  }
}

TEST(Learner, NamesWhatIsNotFinite) {
  config::Recipe recipe = TinyRecipe();
  recipe.mutable_training()->set_batch_size(2);
  const TinyBatch batch(2, 20, 37, 0);
  {
    SingleRank ranks;
    Learner learner(recipe, ranks);
    Parameter* p =
        learner.model().parameters().Find("backbone.layers.1.mixer.D");
    p->value().f32()[3] = std::numeric_limits<float>::infinity();
    const std::vector<float> before =
        Values(learner.model().parameters().values());
    absl::StatusOr<UpdateResult> result =
        learner.Update(batch.view, batch.count, 0);
    ASSERT_TRUE(result.ok());
    EXPECT_NE(result->nonfinite.find("backbone.layers.1.mixer.D"),
              std::string::npos)
        << result->nonfinite;
    EXPECT_TRUE(Values(learner.model().parameters().values()) == before);
    EXPECT_EQ(learner.updates(), 0);
  }
  {
    // Finite parameters whose product overflows in layer 2.
    SingleRank ranks;
    Learner learner(recipe, ranks);
    Parameter* p = learner.model().parameters().Find(
        "backbone.layers.2.mixer.in_proj.weight");
    for (int64_t i = 0; i < p->size(); ++i) p->value().f32()[i] = 3e38f;
    absl::StatusOr<UpdateResult> result =
        learner.Update(batch.view, batch.count, 0);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->nonfinite.find("backbone.layers.2.mixer.in_proj"), 0u)
        << result->nonfinite;
  }
}

TEST(LearningRate, Schedules) {
  config::Optimizer config;
  config.set_learning_rate(1);
  config.set_min_learning_rate(0.1);
  config.set_warmup_steps(4);
  config.set_schedule(config::Optimizer::COSINE);
  EXPECT_DOUBLE_EQ(LearningRate(config, 0, 100), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(config, 3, 100), 1);
  EXPECT_DOUBLE_EQ(LearningRate(config, 4, 100), 1);
  EXPECT_NEAR(LearningRate(config, 99, 100), 0.1, 1e-12);
  EXPECT_LT(LearningRate(config, 60, 100), LearningRate(config, 50, 100));
  config.set_schedule(config::Optimizer::CONSTANT);
  EXPECT_DOUBLE_EQ(LearningRate(config, 99, 100), 1);
  config.set_schedule(config::Optimizer::WARMUP_STABLE_DECAY);
  config.set_decay_steps(10);
  EXPECT_DOUBLE_EQ(LearningRate(config, 89, 100), 1);
  EXPECT_LT(LearningRate(config, 90, 100), 1);
  EXPECT_GT(LearningRate(config, 99, 100), 0.1);
  EXPECT_DOUBLE_EQ(LearningRate(config, 100, 100), 0.1);
}

// Induction: random tokens, then the same tokens again. Every token of the
// second half is determined by the first.
TEST(Learner, LearnsToCopy) {
  config::Recipe recipe = TinyRecipe();
  config::Model& model = *recipe.mutable_model();
  model.Clear();
  model.set_hidden_size(64);
  model.set_num_layers(2);
  model.set_vocab_size(12);
  model.mutable_mamba()->set_state_size(16);
  ASSERT_TRUE(ResolveModel(&model).ok());
  const int steps = 400;
  recipe.mutable_training()->set_steps(steps);
  recipe.mutable_training()->set_chunk_length(8);
  recipe.mutable_training()->set_batch_size(32);
  recipe.mutable_optimizer()->set_learning_rate(6e-3);
  recipe.mutable_optimizer()->set_warmup_steps(20);
  recipe.mutable_optimizer()->set_weight_decay(0.01);
  recipe.mutable_optimizer()->set_schedule(config::Optimizer::COSINE);
  SingleRank ranks;
  Learner learner(recipe, ranks);

  const int64_t batch = 32, half = 8, length = 2 * half + 1, mark = 11;
  const auto make = [&](uint64_t seed, std::vector<int32_t>* tokens,
                        std::vector<int32_t>* targets) {
    tokens->assign(batch * length, 0);
    targets->assign(batch * length, -1);
    for (int64_t b = 0; b < batch; ++b) {
      int32_t* row = tokens->data() + b * length;
      for (int64_t t = 0; t < half; ++t) {
        row[t] = row[half + 1 + t] =
            static_cast<int32_t>(UniformBelow(mark, seed, 9, b * half + t));
      }
      row[half] = mark;
      for (int64_t t = half; t + 1 < length; ++t) {
        (*targets)[b * length + t] = row[t + 1];
      }
    }
  };
  std::vector<int32_t> tokens, targets;
  for (int step = 0; step < steps; ++step) {
    make(step, &tokens, &targets);
    SequenceBatch view;
    view.batch = batch;
    view.length = view.stride = length;
    view.tokens = tokens.data();
    view.targets = targets.data();
    absl::StatusOr<UpdateResult> result =
        learner.Update(view, batch * half, step);
    ASSERT_TRUE(result.ok() && result->nonfinite.empty());
  }
  make(1'000'000, &tokens, &targets);  // never seen
  std::vector<Carry> carries;
  SequenceBatch sequences;
  sequences.batch = batch;
  sequences.length = sequences.stride = length;
  sequences.tokens = tokens.data();
  const LanguageModel::Hidden hidden = ForwardTokens(
      learner.model(), ChunkData(sequences, {0, 0, length}), carries);
  const Tensor logits = learner.model().Logits(hidden, false);
  int64_t right = 0, all = 0;
  for (int64_t i = 0; i < batch * length; ++i) {
    if (targets[i] < 0) continue;
    SamplingOptions greedy;
    greedy.temperature = 0;
    right += Sample(logits.f32() + i * 12, 12, greedy, 0) == targets[i];
    ++all;
  }
  EXPECT_GT(static_cast<double>(right) / all, 0.99);
}

}  // namespace
}  // namespace carry
