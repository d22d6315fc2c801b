// Meshes of processes under mpirun are the same function as one process.
#include <algorithm>
#include <cmath>

#include "framework/io/safetensors.h"
#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::HasSubstr;

class RanksCliTest : public RanksProgramTest {
 protected:
  void TrainAlone(const std::string& more = "") {
    const Result r =
        Run("train tiny.textproto --threads 1 --out alone " + more);
    ASSERT_EQ(r.status, 0) << r.err;
    ASSERT_EQ(Losses("alone").size(), 6u);
  }

  std::vector<float> Weights(const std::string& run) {
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(
        dir_ + "/" + run + "/checkpoints/step-000005/model.safetensors");
    EXPECT_TRUE(file.ok()) << file.status();
    std::vector<float> weights;
    if (!file.ok()) return weights;
    for (const TensorView& tensor : file->tensors()) {
      const auto* x = reinterpret_cast<const float*>(tensor.data);
      weights.insert(weights.end(), x, x + tensor.elements());
    }
    return weights;
  }

  // `run` against the run "alone".
  void ExpectAsAlone(const std::string& run) {
    SCOPED_TRACE(run);
    const std::vector<double> want = Losses("alone"), got = Losses(run);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], 1e-5 * want[i]) << "line " << i;
    }
    const std::vector<float> a = Weights("alone"), b = Weights(run);
    ASSERT_EQ(a.size(), b.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(a[i] - b[i], 2);
      size += std::pow(a[i], 2);
    }
    EXPECT_LT(std::sqrt(difference / size), 1e-3);
    EXPECT_GT(size, 0);
  }
};

constexpr char kPrefix[] = "--set parallel.schedule=PREFIX ";

TEST_F(RanksCliTest, EveryMeshTrainsLikeOneRank) {
  TrainAlone();
  for (const auto& [d, s] :
       std::vector<std::pair<int, int>>{{1, 2}, {1, 3}, {1, 4}, {2, 2}}) {
    for (const bool prefix : {false, true}) {
      const std::string run = std::to_string(d) + "x" + std::to_string(s) +
                              (prefix ? "prefix" : "wavefront");
      const Result r = TrainOn(d, s, run, prefix ? kPrefix : "");
      ASSERT_EQ(r.status, 0) << run << ": " << r.err;
      ExpectAsAlone(run);
      if (d == 1 && !prefix) {
        EXPECT_EQ(Losses(run)[0], Losses("alone")[0]) << "bit for bit";
      }
      // Rank 0 alone speaks.
      size_t lines = 0;
      for (size_t at = 0;
           (at = r.out.find("step 5/5 | loss ", at)) != std::string::npos;
           ++at) {
        ++lines;
      }
      EXPECT_EQ(lines, 1u) << r.out;
    }
  }
}

// Trains on one mesh, forgets what came after step 3, goes on with another.
TEST_F(RanksCliTest, CheckpointsResumeOnOtherMeshes) {
  struct Case {
    int data, sequence;
    const char* more;
    int then_data, then_sequence;
    const char* then_more;
  };
  for (const char* packing :
       {"--set data.packing=PACKED ", "--set data.packing=CARRIED "}) {
    std::filesystem::remove_all(dir_ + "/alone");
    TrainAlone(packing);
    for (const Case& c :
         {Case{1, 2, "", 1, 3, kPrefix}, Case{1, 3, kPrefix, 1, 1, ""},
          Case{1, 1, "", 2, 2, ""}}) {
      std::filesystem::remove_all(dir_ + "/run");
      Result r =
          TrainOn(c.data, c.sequence, "run", std::string(packing) + c.more);
      ASSERT_EQ(r.status, 0) << r.err;
      ForgetLastCheckpoint("run");
      r = TrainOn(c.then_data, c.then_sequence, "run",
                  std::string(packing) + c.then_more + " --resume");
      ASSERT_EQ(r.status, 0) << r.err;
      EXPECT_THAT(r.out,
                  HasSubstr("resuming from run/checkpoints/step-000003"));
      ExpectAsAlone("run");
    }
  }
}

TEST_F(RanksCliTest, ManyMoreRanksThanCores) {
  TrainAlone();
  Result r = TrainOn(1, 8, "eight");
  ASSERT_EQ(r.status, 0) << r.err;
  ExpectAsAlone("eight");
  r = TrainOn(2, 8, "sixteen", kPrefix);
  ASSERT_EQ(r.status, 0) << r.err;
  ExpectAsAlone("sixteen");
}

TEST_F(RanksCliTest, AWorldThatDoesNotFitIsRefused) {
  const Result r = Mpirun(
      "-n 3 '" CARRY_PROGRAM
      "' train tiny.textproto --set parallel.data=2 --set parallel.sequence=2");
  EXPECT_NE(r.status, 0);
  EXPECT_THAT(r.err, HasSubstr("3 ranks were started"));
  EXPECT_THAT(r.err, HasSubstr("mpirun -n 4"));
  EXPECT_THAT(r.err, HasSubstr("1 x 3, 3 x 1"));
}

// Whether there is no driver, or GPUs that are hidden.
TEST_F(RanksCliTest, RanksWithoutGpusSaySoOrTakeTheCpu) {
  const std::string hidden = "-x CUDA_VISIBLE_DEVICES= ";
  const std::string train = "-n 2 '" CARRY_PROGRAM
                            "' train tiny.textproto --threads 1 "
                            "--set parallel.sequence=2 ";
  Result r = Mpirun(hidden + train + "--out gpu --set device=CUDA");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("carry: error: rank 0: "));
  EXPECT_THAT(r.err, HasSubstr("or set device: CPU\n"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/gpu/checkpoints"));
  r = Mpirun(hidden + train + "--out cpu");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("; no GPU: "));
}

TEST_F(RanksCliTest, TheOddRankIsNamed) {
  const std::string train = "'" CARRY_PROGRAM
                            "' train tiny.textproto --threads 1 --out run "
                            "--set parallel.sequence=3";
  Result r =
      Mpirun("-n 2 " + train + " : -n 1 " + train + " --set training.seed=4");
  EXPECT_NE(r.status, 0);
  EXPECT_THAT(r.err, HasSubstr("rank 2 has another recipe than 2 other ranks"));
  r = Mpirun("-n 1 " + train + " : -n 1 -wdir " + dir_ + "/other " + train +
             " : -n 1 " + train);
  EXPECT_NE(r.status, 0);
  EXPECT_THAT(r.err, HasSubstr("rank 1 has another data than 2 other ranks"));
}

}  // namespace
}  // namespace carry
