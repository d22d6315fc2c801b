// Runs from start to end: train, stop, resume, evaluate, generate, inspect.
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "tests/launch/program_test.h"

namespace carry {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

class TrainCliTest : public ProgramTest {
 protected:
  TrainCliTest() {
    for (int file = 0; file < 8; ++file) {
      std::string text;
      for (int line = 0; line < 40; ++line) {
        text += "int value_" + std::to_string(file) + "_" +
                std::to_string(line * 37 % 11) + " = " + std::to_string(line) +
                ";\n";
      }
      Write("data/f" + std::to_string(file) + ".h", text);
    }
    Write("tiny.textproto", R"(
      model { hidden_size: 16 num_layers: 2 }
      data { train: "data" holdout_fraction: 0.3 }
      training {
        steps: 6 sequence_length: 64 batch_size: 2 chunk_length: 24 seed: 3
      }
      optimizer { learning_rate: 0.01 warmup_steps: 2 }
    )");
  }

  Result Train(const std::string& more) {
    return Run("train tiny.textproto --threads 1 " + more);
  }

  // The lines of a run's metrics without what the clock decides.
  std::vector<nlohmann::json> Metrics(const std::string& run) {
    std::vector<nlohmann::json> lines;
    std::istringstream text(Slurp(dir_ + "/" + run + "/metrics.jsonl"));
    for (std::string line; std::getline(text, line);) {
      lines.push_back(nlohmann::json::parse(line));
      for (const char* clock :
           {"seconds", "tokens_per_second", "matmul_share"}) {
        lines.back().erase(clock);
      }
    }
    return lines;
  }

  std::string Weights(const std::string& run, const std::string& step) {
    return Slurp(dir_ + "/" + run + "/checkpoints/" + step +
                 "/model.safetensors");
  }
};

TEST_F(TrainCliTest, TrainsAndSaysWhatItDid) {
  Result r = Train("--out run");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_EQ(r.err, "");
  for (const char* part :
       {"recipe      tiny", "step 6/6 | loss ", "saved run/checkpoints/",
        "held out at step 6", "edge carries"}) {
    EXPECT_THAT(r.out, HasSubstr(part));
  }
  std::vector<nlohmann::json> metrics = Metrics("run");
  ASSERT_EQ(metrics.size(), 7u);
  EXPECT_EQ(metrics[5]["step"], 6);
  EXPECT_EQ(metrics[5]["tokens"], 6 * 2 * 64);
  EXPECT_EQ(metrics[6]["kind"], "eval");
  EXPECT_LT(metrics[5]["loss"], metrics[0]["loss"]);
  EXPECT_NEAR(metrics[0]["loss"], std::log(256.0), 0.5);
  EXPECT_THAT(Slurp(dir_ + "/run/recipe.textproto"), HasSubstr("every: 0"));
  // The log has what the screen had.
  EXPECT_THAT(r.out, HasSubstr(Slurp(dir_ + "/run/train.log").substr(0, 40)));
}

TEST_F(TrainCliTest, BenchSaysWhatAStepSpends) {
  // Of one rank, whatever mesh the recipe is for.
  Result r =
      Run("bench tiny.textproto --steps 2 --threads 2 --one-thread "
          "--set parallel.sequence=2");
  ASSERT_EQ(r.status, 0) << r.err;
  for (const char* part :
       {"products ", "scan backward ", "AdamW ", "the sum of the limits",
        "Outside products, scan and convolution: ", "One thread: ",
        "memory      peak "}) {
    EXPECT_THAT(r.out, HasSubstr(part));
  }
}

TEST_F(TrainCliTest, SameCommandSameBits) {
  ASSERT_EQ(Run("train tiny.textproto --threads 2 --out b").status, 0);
  ASSERT_EQ(Run("train tiny.textproto --threads 2 --out c").status, 0);
  EXPECT_EQ(Metrics("c"), Metrics("b"));
  EXPECT_EQ(Weights("c", "step-000006"), Weights("b", "step-000006"));
}

TEST_F(TrainCliTest, ResumesWithTheSameBits) {
  ASSERT_EQ(Train("--out whole --set checkpoint.every=3").status, 0);
  ASSERT_EQ(Train("--out half --set checkpoint.every=3").status, 0);
  // As if it had been killed in step 5.
  std::filesystem::remove_all(dir_ + "/half/checkpoints/step-000006");
  Result r = Train("--out half --set checkpoint.every=3 --resume");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("resuming from half/checkpoints/step-000003"));
  EXPECT_EQ(Metrics("whole"), Metrics("half"));
  EXPECT_EQ(Weights("whole", "step-000006"), Weights("half", "step-000006"));
}

TEST_F(TrainCliTest, FinishedRunIsNotTrainedAgain) {
  ASSERT_EQ(Train("--out run").status, 0);
  Result r = Train("--out run --resume");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, Not(HasSubstr("step 6/6")));
}

TEST_F(TrainCliTest, ResumeWithoutCheckpointStarts) {
  Result r = Train("--out run --resume");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("starting at step 0"));
}

TEST_F(TrainCliTest, EarlierRunIsNotOverwritten) {
  ASSERT_EQ(Train("--out run").status, 0);
  Result r = Train("--out run");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, StartsWith("carry: error: run holds the checkpoints"));
}

TEST_F(TrainCliTest, SignalSavesAndExitsCleanly) {
  // Far more steps than there is time for.
  const std::string command =
      "cd " + dir_ +
      " && ('" CARRY_PROGRAM
      "' train tiny.textproto --set training.steps=1000000 --out run "
      ">out.txt 2>err.txt & echo $! >pid; wait $!; echo $? >status)";
  std::thread program([&] { EXPECT_EQ(std::system(command.c_str()), 0); });
  // Until it has made steps; a minute at most, on a machine that is busy.
  for (int i = 0; i < 600; ++i) {
    if (Slurp(dir_ + "/out.txt").find("step 2/") != std::string::npos) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  const std::string kill = "kill -TERM $(cat " + dir_ + "/pid)";
  EXPECT_EQ(std::system(kill.c_str()), 0);
  program.join();
  EXPECT_EQ(Slurp(dir_ + "/status"), "0\n") << Slurp(dir_ + "/err.txt");
  EXPECT_THAT(Slurp(dir_ + "/out.txt"), HasSubstr("stopped by a signal"));
  Result r = Run("inspect run");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("; whole\n"));
}

TEST_F(TrainCliTest, EvaluatesAndGenerates) {
  ASSERT_EQ(Train("--out run").status, 0);
  Result r = Run("eval run --files-to list");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("bits/byte   "));
  EXPECT_THAT(r.out, HasSubstr("perplexity  "));
  EXPECT_THAT(Slurp(dir_ + "/list"), HasSubstr("data/f"));
  // The same number as the run's own last evaluation, to its last digit.
  char want[32];
  std::snprintf(want, sizeof(want), "loss        %.4f",
                Metrics("run").back()["loss"].get<double>());
  EXPECT_THAT(r.out, HasSubstr(want));
  // And in chunks of any length.
  EXPECT_EQ(Run("eval run --chunk-length 7").out.substr(0, 200),
            r.out.substr(0, 200));

  // Less context, the same predictions.
  r = Run("eval run --extensions .txt,.h --reset-every 1,4 data");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("     1 tokens "));
  EXPECT_THAT(r.out, HasSubstr("     4 tokens "));
  EXPECT_THAT(r.out, HasSubstr("  never "));

  Result a = Run("generate run --prompt 'int ' --tokens 50 --seed 5");
  ASSERT_EQ(a.status, 0) << a.err;
  EXPECT_EQ(a.out.size(), 50u);
  EXPECT_EQ(Run("generate run --prompt 'int ' --tokens 50 --seed 5 "
                "--chunk-length 1")
                .out,
            a.out);
  EXPECT_NE(Run("generate run --prompt 'int ' --tokens 50 --seed 6").out,
            a.out);
  // A token that was generated counts as one that was read.
  const std::string greedy =
      Run("generate run --prompt 'int v' --tokens 6 --temperature 0").out;
  ASSERT_EQ(greedy.size(), 6u);
  Write("prompt", "int v" + greedy.substr(0, 4));
  EXPECT_EQ(
      Run("generate run --prompt-file prompt --tokens 2 --temperature 0").out,
      greedy.substr(4));
  EXPECT_EQ(Run("generate run --tokens 9 --temperature 0 --seed 1").out,
            Run("generate run --tokens 9 --top-k 1 --seed 2").out);
}

TEST_F(TrainCliTest, PreparedFilesTrainAlike) {
  Result r = Run(
      "prepare data --out t.tokens --held-out h.tokens --holdout-fraction 0.3 "
      "--seed 3");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(Run("inspect t.tokens").out, HasSubstr("ids below 256"));
  ASSERT_EQ(Train("--out plain").status, 0);
  ASSERT_EQ(Train("--out prepared --set data.train=t.tokens "
                  "--set data.eval=h.tokens")
                .status,
            0);
  EXPECT_EQ(Metrics("plain"), Metrics("prepared"));
}

TEST_F(TrainCliTest, ErrorsSayWhatToDo) {
  struct Case {
    const char* arguments;
    const char* says;
  } cases[] = {
      {"train " CARRY_SOURCE_DIR "/recipes/mamba-130m.textproto",
       "--set data.train=PATH"},
      {"train tiny.textproto --set data.train=nowhere", "nowhere"},
      {"train tiny.textproto --set training.sequence_length=1000000000000 "
       "--set training.chunk_length=1000000000000",
       "available"},
      {"train tiny.textproto --set model.vocab_size=100", "256 ids"},
      {"eval nowhere", "nowhere"},
      {"generate nowhere", "nowhere"},
      {"inspect data", "neither a checkpoint"},
      {"prepare nowhere --out x.tokens", "nowhere"},
      {"generate tiny.textproto --top-p 2", "top-p is 2"},
  };
  for (const Case& c : cases) {
    Result r = Run(c.arguments);
    EXPECT_EQ(r.status, 1) << c.arguments;
    EXPECT_THAT(r.err, StartsWith("carry: error: ")) << c.arguments;
    EXPECT_THAT(r.err, HasSubstr(c.says)) << c.arguments;
  }
}

// Whether there is no driver, or GPUs that are hidden.
TEST_F(TrainCliTest, WithoutAGpuCudaIsRefusedAndAutoSaysWhy) {
  ASSERT_EQ(Train("--out run --set device=AUTO").status, 0);
  for (const char* command :
       {"train tiny.textproto --out gpu --set device=CUDA",
        "bench tiny.textproto --set device=CUDA", "eval run --device CUDA",
        "generate run --prompt a --device CUDA"}) {
    const Result r = Run(command, "CUDA_VISIBLE_DEVICES=");
    EXPECT_EQ(r.status, 1) << command;
    EXPECT_EQ(r.out, "") << command;
    EXPECT_THAT(r.err, StartsWith("carry: error: ")) << command;
    EXPECT_THAT(r.err, HasSubstr("or set device: CPU\n")) << command;
  }
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/gpu/checkpoints"));

  Result r = Run("train tiny.textproto --out auto --set device=AUTO",
                 "CUDA_VISIBLE_DEVICES=");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_EQ(r.err, "");
  EXPECT_THAT(r.out,
              ContainsRegex("machine  [^\n]*; no GPU: [^;\n]+; [^\n]*FLOP/s"));
  // Who asked for the CPU knows.
  EXPECT_THAT(Train("--out cpu --set device=CPU").out,
              Not(HasSubstr("no GPU")));
  // What was asked for, and nothing else.
  r = Run("generate run --prompt 'int ' --tokens 5", "CUDA_VISIBLE_DEVICES=");
  EXPECT_EQ(r.out.size(), 5u);
  EXPECT_EQ(r.err, "");
}

TEST_F(TrainCliTest, DamagedCheckpointIsPassedOver) {
  ASSERT_EQ(Train("--out run --set checkpoint.every=3").status, 0);
  const std::string newest =
      dir_ + "/run/checkpoints/step-000006/model.safetensors";
  std::string bytes = Slurp(newest);
  bytes[bytes.size() / 2] ^= 1;
  std::ofstream(newest, std::ios::binary) << bytes;
  Result r = Run("inspect run/checkpoints/step-000006");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("model.safetensors"));
  r = Train("--out run --set checkpoint.every=3 --resume");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.err, HasSubstr("passed over"));
  EXPECT_THAT(r.out, HasSubstr("resuming from run/checkpoints/step-000003"));
}

}  // namespace
}  // namespace carry
