// `carry plan`, the rates that it takes, and what `train` makes of a plan.
#include "launch/rates.h"
#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

// Round numbers; no two alike.
constexpr char kRatesText[] = R"({
  "products": 1e10, "scan_forward": 1e9, "scan_backward": 5e8,
  "summary": 2e9, "gradient_summary": 1.5e9, "other_forward": 1.1e9,
  "other_backward": 6e8, "memory": 1.2e10, "message_seconds": 1e-5,
  "message_bytes": 3e9
})";

class RanksPlanTest : public RanksProgramTest {};

TEST(Rates, ReadBackAsWritten) {
  const absl::StatusOr<RankRates> rates = ParseRates(kRatesText, "r.json");
  ASSERT_TRUE(rates.ok()) << rates.status();
  EXPECT_EQ(rates->gradient_summary, 1.5e9);
  EXPECT_EQ(rates->message_seconds, 1e-5);
  const absl::StatusOr<RankRates> again =
      ParseRates(RatesText(*rates), "again");
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(RatesText(*again), RatesText(*rates));
}

TEST(Rates, WhatIsMissingOrNoRateIsNamed) {
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{
           {"\"products\": 1e10,", ""},
           {"1.1e9", "0"},
           {"1.1e9", "-3"},
           {"1.1e9", "\"fast\""}}) {
    std::string text = kRatesText;
    text.replace(text.find(from), from.size(), to);
    const absl::Status status = ParseRates(text, "r.json").status();
    EXPECT_THAT(std::string(status.message()),
                ContainsRegex("r.json: \"(products|other_forward)\""));
  }
  EXPECT_FALSE(ParseRates("[1]", "r.json").ok());
}

TEST_F(RanksPlanTest, SaysWhatEveryMeshTakes) {
  Write("rates.json", kRatesText);
  const Result r =
      Run("plan tiny.textproto --ranks 4 --rates rates.json "
          "--memory 1000000000");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, ContainsRegex("1 x 4 +WAVEFRONT .*\n1 x 4 +PREFIX "
                                   ".*\n2 x 2 +WAVEFRONT .*\n2 x 2 +PREFIX "
                                   ".*\n4 x 1 +- "));
  EXPECT_THAT(r.out, HasSubstr("AUTO on 1 x 4: "));
  EXPECT_THAT(r.out, HasSubstr("AUTO on 2 x 2: "));
  EXPECT_THAT(r.out, ContainsRegex("WAVEFRONT .*: parameters .*edge carries"));
  EXPECT_THAT(r.out, HasSubstr("layer inputs"));
  EXPECT_THAT(r.out, Not(HasSubstr("refused")));
  // The same rates give the same answer; less memory another.
  EXPECT_EQ(Run("plan tiny.textproto --ranks 4 --rates rates.json "
                "--memory 1000000000")
                .out,
            r.out);
  EXPECT_THAT(Run("plan tiny.textproto --ranks 4 --rates rates.json "
                  "--memory 100000")
                  .out,
              HasSubstr("refused: needs "));
}

TEST_F(RanksPlanTest, MeasuresRatesAndWritesThem) {
  const Result r = Run("plan tiny.textproto --write-rates rates.json");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_TRUE(ParseRates(Slurp(dir_ + "/rates.json"), "rates.json").ok());
  const Result bad = Run("plan tiny.textproto --rates tiny.textproto");
  EXPECT_EQ(bad.status, 1);
  EXPECT_THAT(bad.err, HasSubstr("tiny.textproto: not a JSON object"));
}

TEST_F(RanksPlanTest, TrainTakesWhatAutoFinds) {
  // One chunk: no wavefront can share it.
  Result r = TrainOn(1, 3, "run",
                     "--set parallel.schedule=AUTO "
                     "--set training.sequence_length=16384 "
                     "--set training.chunk_length=16384 "
                     "--set training.batch_size=1 "
                     "--set training.micro_batch_size=1 "
                     "--set training.steps=2 --set optimizer.warmup_steps=1");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("predicted   1 x 3 ranks, PREFIX: "));
  EXPECT_THAT(r.out, ContainsRegex("measured    .* of what was predicted"));
  EXPECT_THAT(Slurp(dir_ + "/run/recipe.textproto"),
              HasSubstr("schedule: PREFIX"));
}

TEST_F(RanksPlanTest, WhatDoesNotFitIsRefusedBeforeItStarts) {
  for (const char* schedule : {"WAVEFRONT", "PREFIX"}) {
    const Result r = TrainOn(1, 2, "run",
                             std::string("--set parallel.memory_budget=100000 "
                                         "--set parallel.schedule=") +
                                 schedule);
    EXPECT_NE(r.status, 0);
    EXPECT_THAT(r.err, HasSubstr("allowed by parallel.memory_budget"));
    EXPECT_THAT(r.err, HasSubstr("Lower training."));
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/run"));
  }
}

}  // namespace
}  // namespace carry
