// Recipes: what is read, what is filled in, and every way to be wrong.
#include "launch/recipe.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "launch/recipe_resolve.h"
#include "launch/recipe_text.h"

namespace carry {
namespace {

constexpr char kSmall[] = R"(model { hidden_size: 64 num_layers: 2 }
training {
  steps: 10
  sequence_length: 128
  batch_size: 4
}
optimizer { learning_rate: 1e-3 }
)";

config::Recipe MustParse(const std::string& text,
                         const std::vector<std::string>& sets = {}) {
  absl::StatusOr<config::Recipe> recipe =
      ParseRecipe(text, "dir/small.textproto", sets);
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return recipe.ok() ? *recipe : config::Recipe();
}

std::string ErrorOf(const std::string& text,
                    const std::vector<std::string>& sets = {}) {
  absl::StatusOr<config::Recipe> recipe =
      ParseRecipe(text, "r.textproto", sets);
  return recipe.ok() ? "no error" : std::string(recipe.status().message());
}

std::string SetError(const std::string& set) { return ErrorOf(kSmall, {set}); }

// `kSmall` with something more inside one of its messages.
std::string With(const std::string& after, const std::string& more) {
  std::string text = kSmall;
  size_t at = text.find(after);
  EXPECT_NE(at, std::string::npos);
  return text.insert(at + after.size(), more);
}

TEST(RecipeTest, FillsInDefaults) {
  config::Recipe r = MustParse(kSmall);
  EXPECT_EQ(r.name(), "small");
  EXPECT_EQ(r.model().vocab_size(), 256);
  EXPECT_TRUE(r.model().tie_embeddings());
  EXPECT_EQ(r.model().norm_epsilon(), 1e-5);
  EXPECT_EQ(r.model().mamba().state_size(), 16);
  EXPECT_EQ(r.model().mamba().time_step_rank(), 4);
  EXPECT_EQ(r.model().mamba().time_step_floor(), 1e-4);
  EXPECT_TRUE(r.model().mamba().use_conv_bias());
  EXPECT_TRUE(r.data().tokenizer().bytes());
  EXPECT_EQ(r.data().packing(), config::Data::PACKED);
  EXPECT_EQ(r.data().holdout_fraction(), 0.05);
  EXPECT_EQ(r.training().micro_batch_size(), 4);
  EXPECT_EQ(r.training().chunk_length(), 128);
  EXPECT_EQ(r.training().precision(), config::Training::FP32);
  EXPECT_EQ(r.training().max_nonfinite_steps(), 5);
  EXPECT_EQ(r.optimizer().beta2(), 0.95);
  EXPECT_EQ(r.optimizer().schedule(), config::Optimizer::COSINE);
  EXPECT_EQ(r.checkpoint().keep(), 2);
}

// The rank is ceil(D / 16), not D / 16.
TEST(RecipeTest, DerivedSizesRoundUp) {
  EXPECT_EQ(MustParse(kSmall, {"model.hidden_size=65"})
                .model()
                .mamba()
                .time_step_rank(),
            5);
}

TEST(RecipeTest, LongerChunkIsTheSequence) {
  EXPECT_EQ(MustParse(kSmall, {"training.chunk_length=1000"})
                .training()
                .chunk_length(),
            128);
}

TEST(RecipeTest, DecayStepsFollowTheSchedule) {
  EXPECT_EQ(MustParse(kSmall).optimizer().decay_steps(), 0);
  EXPECT_EQ(MustParse(kSmall, {"optimizer.schedule=WARMUP_STABLE_DECAY"})
                .optimizer()
                .decay_steps(),
            1);
}

// A field that a resolved recipe leaves unset would be lost in the saved text.
void ExpectComplete(const google::protobuf::Message& message,
                    const std::string& path) {
  const auto& type = *message.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    const auto* field = type.field(i);
    const auto& reflection = *message.GetReflection();
    if (field->is_repeated()) continue;
    if (field->real_containing_oneof() != nullptr) continue;
    EXPECT_TRUE(reflection.HasField(message, field)) << path << field->name();
    if (field->message_type() != nullptr) {
      ExpectComplete(reflection.GetMessage(message, field),
                     path + field->name() + ".");
    }
  }
}

TEST(RecipeTest, ResolvedRecipeIsComplete) {
  config::Recipe r = MustParse(kSmall);
  ExpectComplete(r, "");
  ExpectComplete(r.model().mamba(), "model.mamba.");
}

TEST(RecipeTest, FullTextReadsBackAsItIs) {
  config::Recipe r = MustParse(
      kSmall, {"optimizer.learning_rate=0.1234567890123456789",
               "data.train=[\"a b\", c]", "optimizer.warmup_steps=3"});
  const std::string text = RecipeText(r);
  EXPECT_TRUE(absl::StrContains(text, "every: 0")) << text;
  config::Recipe again = MustParse(text);
  EXPECT_EQ(RecipeText(again), text);
  EXPECT_EQ(again.optimizer().learning_rate(), 0.1234567890123456789);
}

TEST(RecipeTest, UnknownFieldNamesPlaceAndNearest) {
  EXPECT_EQ(ErrorOf(With("training {\n", "  stepz: 3\n")),
            "r.textproto:3:3: Training has no field 'stepz'; did you mean "
            "'steps'?");
  // The place is right behind a tab and a value of the same spelling.
  EXPECT_EQ(ErrorOf("name: \"chunk_lenght\"\ntraining {\n\tchunk_lenght : 3 }"),
            "r.textproto:3:2: Training has no field 'chunk_lenght'; did you "
            "mean 'chunk_length'?");
}

TEST(RecipeTest, UnknownFieldThatLivesElsewhere) {
  EXPECT_EQ(ErrorOf("learning_rate: 3"),
            "r.textproto:1:1: Recipe has no field 'learning_rate'; did you "
            "mean 'optimizer.learning_rate'?");
}

TEST(RecipeTest, UnknownFieldWithNothingNearListsAll) {
  EXPECT_EQ(ErrorOf("checkpoint { zzzzzz: 1 }"),
            "r.textproto:1:14: Checkpoint has no field 'zzzzzz'; it may be one "
            "of: every, keep");
}

TEST(RecipeTest, UnknownEnumValue) {
  EXPECT_EQ(ErrorOf("training { precision: BF61 }"),
            "r.textproto:1:23: precision has no value 'BF61'; did you mean "
            "'BF16'?");
}

TEST(RecipeTest, WrongTypesNameThePlace) {
  EXPECT_EQ(ErrorOf("training {\n  steps: \"ten\" }").substr(0, 17),
            "r.textproto:2:10:");
  EXPECT_TRUE(absl::StrContains(ErrorOf("training { steps: 1.5 }"),
                                "r.textproto:1:19: Expected integer"));
  EXPECT_TRUE(absl::StrContains(ErrorOf("model { tie_embeddings: maybe }"),
                                "r.textproto:1:"));
}

TEST(RecipeTest, SyntaxErrorsNameThePlace) {
  EXPECT_EQ(ErrorOf("model {").substr(0, 15), "r.textproto:1:8");
  EXPECT_EQ(ErrorOf("model { hidden_size 3 }").substr(0, 16),
            "r.textproto:1:21");
}

TEST(RecipeTest, BothMembersOfAOneof) {
  EXPECT_TRUE(absl::StrContains(
      ErrorOf("data { tokenizer { bytes: true sentencepiece: \"x\" } }"),
      "oneof"));
}

TEST(RecipeTest, MissingFieldNamesMessage) {
  EXPECT_EQ(ErrorOf("model { hidden_size: 4 num_layers: 1 }\ntraining {}"),
            "r.textproto:2:1: training.steps is missing");
  EXPECT_EQ(ErrorOf(""), "r.textproto: model.hidden_size is missing");
}

TEST(RecipeTest, RangesNamePlaceValueAndBounds) {
  EXPECT_EQ(ErrorOf(With("num_layers: 2", " mamba { state_size: 257 }")),
            "r.textproto:1:47: model.mamba.state_size must be at least 1 and "
            "at most 256, not 257");
  EXPECT_EQ(SetError("model.mamba.conv_kernel=9"),
            "--set model.mamba.conv_kernel: model.mamba.conv_kernel must be at "
            "least 1 and at most 8, not 9");
  for (const char* set :
       {"training.steps=-1", "model.hidden_size=0", "model.mamba.state_size=0",
        "optimizer.learning_rate=nan", "optimizer.learning_rate=inf",
        "optimizer.learning_rate=-0.1", "optimizer.beta2=1",
        "optimizer.epsilon=0", "data.holdout_fraction=1",
        "training.chunk_length=-1", "training.micro_batch_size=-2",
        "checkpoint.keep=-1", "training.log_every=0",
        "model.mamba.time_step_min=0"}) {
    EXPECT_TRUE(absl::StrContains(SetError(set), " must be ")) << set;
  }
}

// Columns are bytes, as editors count them, not protobuf's tab stops.
TEST(RecipeTest, PlacesBehindTabs) {
  EXPECT_EQ(ErrorOf(With("training {\n", "\t\tchunk_length: -3")).substr(0, 16),
            "r.textproto:3:3:");
  EXPECT_EQ(ErrorOf("training {\n\tsteps:\t\"ten\" }").substr(0, 17),
            "r.textproto:2:9: ");
}

TEST(RecipeTest, Contradictions) {
  struct Case {
    std::vector<std::string> sets;
    const char* says;
  } cases[] = {
      {{"training.micro_batch_size=5"}, "more than batch_size, 4"},
      {{"optimizer.warmup_steps=11"}, "more than training.steps, 10"},
      {{"optimizer.min_learning_rate=1"}, "more than learning_rate, 0.001"},
      {{"optimizer.decay_steps=3"}, "WARMUP_STABLE_DECAY alone"},
      {{"optimizer.schedule=WARMUP_STABLE_DECAY", "optimizer.warmup_steps=4",
        "optimizer.decay_steps=7"},
       "4 of the 10 steps are warm-up"},
      {{"model.vocab_size=255"}, "less than the tokenizer's 256 ids"},
      {{"model.mamba.time_step_min=0.2"}, "more than time_step_max, 0.1"},
      {{"model.mamba.time_step_floor=0.2"}, "more than time_step_max, 0.1"},
      {{"data.tokenizer.bytes=false"}, "cannot be false"},
      {{"data.train=[\"\"]"}, "empty path"},
      {{"evaluation.every=2", "data.holdout_fraction=0"}, "data.eval is empty"},
      {{"name=a/b"}, "folder's name"},
      {{"training.steps=1000000000000", "training.batch_size=1000000"},
       "does not fit in 64 bits"},
  };
  for (const Case& c : cases) {
    const std::string error = ErrorOf(kSmall, c.sets);
    EXPECT_TRUE(absl::StrContains(error, c.says)) << c.sets[0] << ": " << error;
  }
}

TEST(RecipeTest, SetScalarsEnumsAndOneofs) {
  config::Recipe r = MustParse(
      kSmall, {"training.steps=20", "optimizer.learning_rate=2.5e-4",
               "model.tie_embeddings=false", "training.precision=BF16",
               "training.seed=18446744073709551615", "model.mamba.state_size=8",
               "data.tokenizer.sentencepiece=my model.model", "name= spaced "});
  EXPECT_EQ(r.training().steps(), 20);
  EXPECT_EQ(r.optimizer().learning_rate(), 2.5e-4);
  EXPECT_FALSE(r.model().tie_embeddings());
  EXPECT_EQ(r.training().precision(), config::Training::BF16);
  EXPECT_EQ(r.training().seed(), 18446744073709551615u);
  EXPECT_EQ(r.model().mamba().state_size(), 8);
  EXPECT_EQ(r.data().tokenizer().sentencepiece(), "my model.model");
  EXPECT_FALSE(r.data().tokenizer().bytes());
  EXPECT_EQ(r.name(), "spaced");
}

TEST(RecipeTest, SetLists) {
  const std::string text =
      std::string(kSmall) + "data { train: [\"a\", \"b\"] }";
  auto train = [&](const std::vector<std::string>& sets) {
    config::Recipe r = MustParse(text, sets);
    return std::vector<std::string>(r.data().train().begin(),
                                    r.data().train().end());
  };
  using List = std::vector<std::string>;
  EXPECT_EQ(train({}), (List{"a", "b"}));
  EXPECT_EQ(train({"data.train=c,d"}), (List{"c,d"}));
  EXPECT_EQ(train({"data.train=[c, \"d, e\", f]"}), (List{"c", "d, e", "f"}));
  EXPECT_EQ(train({"data.train+=c"}), (List{"a", "b", "c"}));
  EXPECT_EQ(train({"data.train+=[c, d]", "data.train+=\"e\\\"\""}),
            (List{"a", "b", "c", "d", "e\""}));
  EXPECT_EQ(train({"data.train="}), List{});
  EXPECT_EQ(train({"data.train=[]"}), List{});
}

TEST(RecipeTest, SetBackToDefaultAndWholeMessages) {
  const std::string text = With("num_layers: 2", " mamba { state_size: 4 }");
  EXPECT_EQ(MustParse(text).model().mamba().state_size(), 4);
  EXPECT_EQ(
      MustParse(text, {"model.mamba.state_size="}).model().mamba().state_size(),
      16);
  config::Recipe r = MustParse(text, {"model.mamba={conv_kernel: 3}"});
  EXPECT_EQ(r.model().mamba().conv_kernel(), 3);
  EXPECT_EQ(r.model().mamba().state_size(), 16);
}

TEST(RecipeTest, SetErrors) {
  EXPECT_EQ(SetError("training.stepz=3"),
            "--set training.stepz: Training has no field 'stepz'; did you mean "
            "'steps'?");
  EXPECT_EQ(SetError("steps=3"),
            "--set steps: Recipe has no field 'steps'; did you mean "
            "'training.steps'?");
  EXPECT_EQ(SetError("training.steps=1e3"),
            "--set training.steps: steps wants a whole number, not '1e3'");
  EXPECT_EQ(SetError("training.steps=99999999999999999999"),
            "--set training.steps: steps wants a whole number, not "
            "'99999999999999999999'");
  EXPECT_EQ(SetError("training.seed=-1"),
            "--set training.seed: seed wants a whole number of at least 0, not "
            "'-1'");
  EXPECT_EQ(SetError("model.tie_embeddings=maybe"),
            "--set model.tie_embeddings: tie_embeddings wants true or false, "
            "not 'maybe'");
  EXPECT_EQ(SetError("optimizer.schedule=COSIN"),
            "--set optimizer.schedule: schedule has no value 'COSIN'; did you "
            "mean 'COSINE'?");
  EXPECT_EQ(SetError("training.steps.more=3"),
            "--set training.steps.more: steps has no fields of its own");
  EXPECT_EQ(SetError("training.steps+=3"),
            "--set training.steps: steps is not a list; += adds to lists");
  EXPECT_TRUE(absl::StrContains(SetError("model.mamba=3"), "is a message"));
  EXPECT_TRUE(absl::StrContains(SetError("model.mamba={states: 3}"),
                                "Mamba has no field 'states'"));
  EXPECT_TRUE(absl::StrContains(SetError("data.train=[a"), "a list [a, b]"));
  for (const char* nonsense : {"", "=", "training", "=3"}) {
    EXPECT_TRUE(absl::StrContains(SetError(nonsense), "path.to.field=value"));
  }
  for (const char* nonsense : {".=3", "training..steps=3", "..=1"}) {
    EXPECT_TRUE(absl::StrContains(SetError(nonsense), "has no field ''"));
  }
}

// An error about a value that --set gave names --set, not the file.
TEST(RecipeTest, PlaceOfAnOverriddenValue) {
  EXPECT_EQ(SetError("optimizer.learning_rate=-1").substr(0, 30),
            "--set optimizer.learning_rate:");
  EXPECT_EQ(ErrorOf(With("num_layers: 2", " mamba { state_size: 4 }"),
                    {"model.mamba={state_size: 0}"})
                .substr(0, 18),
            "--set model.mamba:");
}

TEST(RecipeTest, VocabularyOfATokenizerFileIsNotKnownYet) {
  config::Recipe r = MustParse(kSmall, {"data.tokenizer.sentencepiece=x"});
  EXPECT_EQ(r.model().vocab_size(), 0);
  EXPECT_FALSE(DescribeRecipe(r).empty());
}

TEST(RecipeTest, TrainingDataMustBeNamed) {
  config::Recipe r = MustParse(kSmall);
  absl::Status status = RequireTrainingData(r);
  EXPECT_TRUE(absl::StrContains(status.message(), "--set data.train="));
  r.mutable_data()->add_train("x");
  EXPECT_TRUE(RequireTrainingData(r).ok());
}

TEST(NearestNameTest, FindsTyposOnly) {
  const std::vector<std::string> names = {"steps", "seed", "chunk_length"};
  EXPECT_EQ(NearestName("setps", names), "steps");
  EXPECT_EQ(NearestName("chunklength", names), "chunk_length");
  EXPECT_EQ(NearestName("chunk_len", names), "chunk_length");
  EXPECT_EQ(NearestName("banana", names), "");
  EXPECT_EQ(NearestName(std::string(10000, 's'), names), "");
}

TEST(RecipeTest, DescriptionHoldsTheFigures) {
  const std::string text =
      DescribeRecipe(MustParse(kSmall, {"training.chunk_length=32"}));
  for (const char* part :
       {"small", "mamba 2 x 64", "vocabulary 256 tied", "4 x 128 tokens = 512",
        "chunks of 32", "10 steps", "peak rate 0.001", "cosine"}) {
    EXPECT_TRUE(absl::StrContains(text, part)) << part << "\n" << text;
  }
}

}  // namespace
}  // namespace carry
