// The whole run in one process: data from files, steps, checkpoints, resume.

#include "framework/train/trainer.h"

#include <filesystem>
#include <fstream>
#include <limits>

#include "framework/io/file.h"
#include "gtest/gtest.h"
#include "recipes/rules.h"
#include "tests/framework/temp_dir.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

namespace fs = std::filesystem;

class TrainerTest : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directories(root_ + "/data");
    for (int f = 0; f < 12; ++f) {
      std::ofstream file(root_ + "/data/" + std::to_string(f) + ".txt");
      for (int i = 0; i < 40 + 37 * f; ++i) {
        file << "line " << (i * (f + 3)) % 17 << "\n";
      }
    }
  }
  config::Recipe Recipe() {
    config::Recipe recipe;
    recipe.set_name("test");
    recipe.mutable_model()->set_hidden_size(16);
    recipe.mutable_model()->set_num_layers(2);
    recipe.mutable_model()->set_vocab_size(256);
    recipe.mutable_data()->add_train(root_ + "/data");
    recipe.mutable_data()->set_holdout_fraction(0.3);
    recipe.mutable_data()->mutable_tokenizer()->set_bytes(true);
    config::Training& training = *recipe.mutable_training();
    training.set_steps(20);
    training.set_sequence_length(40);
    training.set_batch_size(4);
    training.set_micro_batch_size(3);
    training.set_chunk_length(16);
    recipe.mutable_optimizer()->set_learning_rate(3e-3);
    EXPECT_TRUE(ResolveModel(recipe.mutable_model()).ok());
    EXPECT_TRUE(ApplyRules(&recipe, "", nullptr).ok());
    return recipe;
  }

  std::unique_ptr<Trainer> Make(const config::Recipe& recipe,
                                const std::string& run = "run") {
    absl::StatusOr<std::unique_ptr<Trainer>> trainer =
        Trainer::Create(recipe, root_ + "/" + run, ranks_);
    EXPECT_TRUE(trainer.ok()) << trainer.status();
    return trainer.ok() ? *std::move(trainer) : nullptr;
  }

  // Losses of steps until `step`.
  std::vector<double> StepTo(Trainer& trainer, int64_t step) {
    std::vector<double> losses;
    while (trainer.step() < step) {
      absl::StatusOr<StepReport> report = trainer.Step();
      EXPECT_TRUE(report.ok()) << report.status();
      if (!report.ok()) break;
      losses.push_back(report->update.loss);
    }
    return losses;
  }

  TempDir dir_;
  const std::string root_ = dir_.path();
  SingleRank ranks_;
};

std::string Bytes(const std::string& path) {
  absl::StatusOr<std::string> bytes = ReadFile(path);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  return bytes.ok() ? *bytes : "";
}

TEST_F(TrainerTest, ResumeGivesTheSameBits) {
  for (config::Data::Packing packing :
       {config::Data::PACKED, config::Data::CARRIED}) {
    config::Recipe recipe = Recipe();
    recipe.mutable_data()->set_packing(packing);
    const std::string name = std::to_string(packing);
    const auto straight = Make(recipe, "straight" + name);
    std::vector<double> want = StepTo(*straight, 20);
    EXPECT_LT(want.back(), want.front());
    absl::StatusOr<std::string> whole = straight->Save();
    ASSERT_TRUE(whole.ok()) << whole.status();

    std::vector<double> got;
    {
      const auto first = Make(recipe, "halves" + name);
      got = StepTo(*first, 10);
      ASSERT_TRUE(first->Save().ok());
    }
    const auto second = Make(recipe, "halves" + name);
    absl::StatusOr<FoundCheckpoint> found = second->Resume();
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(second->step(), 10);
    for (double loss : StepTo(*second, 20)) got.push_back(loss);
    EXPECT_TRUE(got == want);
    absl::StatusOr<std::string> resumed = second->Save();
    ASSERT_TRUE(resumed.ok()) << resumed.status();
    for (const char* file :
         {"model.safetensors", "optimizer.safetensors", "state.json"}) {
      EXPECT_TRUE(Bytes(*whole + "/" + file) == Bytes(*resumed + "/" + file))
          << file;
    }
    if (packing == config::Data::CARRIED) {
      EXPECT_TRUE(Bytes(*whole + "/carries.safetensors") ==
                  Bytes(*resumed + "/carries.safetensors"));
    }
  }
}

TEST_F(TrainerTest, ResumeWithAnotherChunkLengthStaysClose) {
  config::Recipe recipe = Recipe();
  const auto straight = Make(recipe, "straight");
  const std::vector<double> want = StepTo(*straight, 14);
  {
    const auto first = Make(recipe);
    StepTo(*first, 10);
    ASSERT_TRUE(first->Save().ok());
  }
  recipe.mutable_training()->set_chunk_length(7);
  recipe.mutable_training()->set_micro_batch_size(4);
  const auto second = Make(recipe);
  ASSERT_TRUE(second->Resume().ok());
  const std::vector<double> got = StepTo(*second, 14);
  ASSERT_EQ(got.size(), 4u);
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(got[i], want[10 + i], 1e-4);
}

TEST_F(TrainerTest, ResumeRefusesOtherDataAndOtherModels) {
  config::Recipe recipe = Recipe();
  {
    const auto first = Make(recipe);
    StepTo(*first, 1);
    ASSERT_TRUE(first->Save().ok());
  }
  config::Recipe wider = recipe;
  wider.mutable_model()->set_hidden_size(24);
  absl::StatusOr<FoundCheckpoint> found = Make(wider)->Resume();
  ASSERT_FALSE(found.ok());
  EXPECT_NE(found.status().message().find("shape"), std::string::npos);
  std::ofstream(root_ + "/data/0.txt") << "something else entirely\n";
  std::ofstream(root_ + "/data/1.txt") << "something else entirely\n";
  std::ofstream(root_ + "/data/2.txt") << "something else entirely\n";
  found = Make(recipe)->Resume();
  ASSERT_FALSE(found.ok());
  EXPECT_EQ(found.status().code(), absl::StatusCode::kFailedPrecondition)
      << found.status();
}

TEST_F(TrainerTest, ADamagedCheckpointIsPassedOver) {
  const config::Recipe recipe = Recipe();
  std::string newest;
  {
    const auto first = Make(recipe);
    StepTo(*first, 2);
    ASSERT_TRUE(first->Save().ok());
    StepTo(*first, 4);
    absl::StatusOr<std::string> saved = first->Save();
    ASSERT_TRUE(saved.ok());
    newest = *saved;
  }
  std::string bytes = Bytes(newest + "/optimizer.safetensors");
  bytes[bytes.size() - 5] ^= 1;
  ASSERT_TRUE(
      WriteFileAtomically(newest + "/optimizer.safetensors", bytes).ok());
  const auto second = Make(recipe);
  absl::StatusOr<FoundCheckpoint> found = second->Resume();
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(second->step(), 2);
  EXPECT_EQ(found->skipped.size(), 1u);
}

TEST_F(TrainerTest, StopsAfterNonFiniteStepsWithTheCheckpointIntact) {
  config::Recipe recipe = Recipe();
  recipe.mutable_training()->set_max_nonfinite_steps(3);
  const auto trainer = Make(recipe);
  StepTo(*trainer, 2);
  ASSERT_TRUE(trainer->Save().ok());
  trainer->model()
      .parameters()
      .Find("backbone.layers.1.norm.weight")
      ->value()
      .f32()[0] = std::numeric_limits<float>::quiet_NaN();
  for (int i = 0; i < 2; ++i) {
    absl::StatusOr<StepReport> report = trainer->Step();
    ASSERT_TRUE(report.ok());
    EXPECT_NE(report->update.nonfinite.find("backbone.layers.1.norm.weight"),
              std::string::npos);
  }
  absl::StatusOr<StepReport> last = trainer->Step();
  ASSERT_FALSE(last.ok());
  EXPECT_NE(last.status().message().find("3 steps in a row"),
            std::string::npos);
  const auto again = Make(recipe);
  ASSERT_TRUE(again->Resume().ok());
  EXPECT_EQ(again->step(), 2);
}

TEST_F(TrainerTest, RefusesWhatDoesNotFit) {
  config::Recipe recipe = Recipe();
  recipe.mutable_model()->set_hidden_size(60000);
  recipe.mutable_model()->set_num_layers(4000);
  recipe.mutable_model()->mutable_mamba()->clear_time_step_rank();
  ASSERT_TRUE(ResolveModel(recipe.mutable_model()).ok());
  absl::StatusOr<std::unique_ptr<Trainer>> trainer =
      Trainer::Create(recipe, root_ + "/run", ranks_);
  ASSERT_FALSE(trainer.ok());
  EXPECT_EQ(trainer.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(trainer.status().message().find("TiB"), std::string::npos)
      << trainer.status();
}

TEST_F(TrainerTest, EvaluationDoesNotDependOnChunks) {
  config::Recipe recipe = Recipe();
  const auto trainer = Make(recipe);
  StepTo(*trainer, 5);
  absl::StatusOr<CorpusEval> eval = trainer->Evaluate(nullptr);
  ASSERT_TRUE(eval.ok()) << eval.status();
  const Corpus& corpus = *trainer->data().held_out;
  EXPECT_EQ(eval->documents, corpus.num_documents());
  EXPECT_EQ(eval->bytes, corpus.num_tokens() - corpus.num_documents());
  EXPECT_EQ(eval->result.tokens, eval->bytes);
  for (int64_t chunk : {1, 5, 1000000}) {
    CorpusEvalOptions options;
    options.chunk_length = chunk;
    absl::StatusOr<CorpusEval> other = EvaluateCorpus(
        trainer->model(), corpus, *trainer->data().tokenizer, options);
    ASSERT_TRUE(other.ok());
    EXPECT_NEAR(other->BitsPerByte(), eval->BitsPerByte(), 1e-5);
    ASSERT_EQ(other->result.by_position.size(),
              eval->result.by_position.size());
    int64_t tokens = 0;
    for (size_t i = 0; i < eval->result.by_position.size(); ++i) {
      EXPECT_EQ(other->result.by_position[i].tokens,
                eval->result.by_position[i].tokens);
      tokens += eval->result.by_position[i].tokens;
    }
    EXPECT_EQ(tokens, eval->result.tokens);
  }
}

// A carry that is reset before every token leaves a model of pairs; one reset
// after more tokens than any document has changes nothing. In between, chunk
// edges still do not matter.
TEST_F(TrainerTest, EvaluationWithResets) {
  const auto trainer = Make(Recipe());
  StepTo(*trainer, 5);
  const auto evaluate = [&](int64_t chunk, int64_t reset_every) {
    CorpusEvalOptions options;
    options.chunk_length = chunk;
    options.reset_every = reset_every;
    absl::StatusOr<CorpusEval> eval =
        EvaluateCorpus(trainer->model(), *trainer->data().held_out,
                       *trainer->data().tokenizer, options);
    EXPECT_TRUE(eval.ok()) << eval.status();
    return eval->result;
  };
  const EvalResult kept = evaluate(16, 0);
  EXPECT_EQ(evaluate(16, 1 << 30).nll, kept.nll);
  for (int64_t reset_every : {1, 3, 16}) {
    const EvalResult reset = evaluate(16, reset_every);
    EXPECT_EQ(reset.tokens, kept.tokens);
    EXPECT_GT(std::abs(reset.nll - kept.nll), 1e-6 * kept.nll);
    EXPECT_NEAR(reset.nll, evaluate(7, reset_every).nll, 1e-5 * kept.nll);
  }
  // The first token of a document has no context in either.
  EXPECT_NEAR(evaluate(16, 1).by_position[0].nll, kept.by_position[0].nll,
              1e-5 * kept.by_position[0].nll);
}

TEST_F(TrainerTest, ASavedModelLoadsAlone) {
  const auto trainer = Make(Recipe());
  StepTo(*trainer, 3);
  ASSERT_TRUE(trainer->Save().ok());
  absl::StatusOr<LoadedModel> loaded = LoadModel(root_ + "/run", DType::kF32);
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_TRUE(loaded->has_recipe);
  EXPECT_TRUE(Values(loaded->model->parameters().values()) ==
              Values(trainer->model().parameters().values()));
}

}  // namespace
}  // namespace carry
