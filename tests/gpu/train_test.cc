// The program on GPUs is the same function as on the CPU: every schedule, every
// precision, checkpoints from one to the other.
#include <cmath>
#include <string>

#include "framework/io/safetensors.h"
#include "kernels/cuda/runtime.h"
#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kCpu[] = " --set device=CPU ";
constexpr char kCuda[] = " --set device=CUDA ";
constexpr char kPrefix[] = " --set parallel.schedule=PREFIX ";
constexpr char kBf16[] = " --set training.precision=BF16 ";

class GpuTrainTest : public RanksProgramTest {
 protected:
  static int Gpus() { return cuda::CountDevices().value_or(0); }

  void Train(const std::string& run, const std::string& more) {
    const Result r =
        Run("train tiny.textproto --threads 1 --out " + run + more);
    ASSERT_EQ(r.status, 0) << r.err;
    ASSERT_EQ(Losses(run).size(), 6u);
  }

  // Needs a GPU a rank.
  void TrainOnMesh(int data, int sequence, const std::string& run,
                   const std::string& more) {
    const Result r = TrainOn(data, sequence, run, kCuda + more);
    ASSERT_EQ(r.status, 0) << run << ": " << r.err;
    ExpectAlike("cpu", run, 2e-5);
  }

  void ExpectAlike(const std::string& a, const std::string& b,
                   double tolerance) {
    SCOPED_TRACE(b);
    const std::vector<double> want = Losses(a), got = Losses(b);
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      EXPECT_NEAR(got[i], want[i], tolerance * want[i]) << "line " << i;
    }
  }
};

TEST_F(GpuTrainTest, OneGpuTrainsLikeTheCpu) {
  Train("cpu", kCpu);
  Train("cuda", kCuda);
  ExpectAlike("cpu", "cuda", 2e-5);
  // The same run twice gives the same bits.
  Train("again", kCuda);
  EXPECT_EQ(Losses("cuda"), Losses("again"));
}

TEST_F(GpuTrainTest, Bf16TrainsLikeTheCpu) {
  Train("cpu", std::string(kCpu) + kBf16);
  Train("cuda", std::string(kCuda) + kBf16);
  ExpectAlike("cpu", "cuda", 5e-3);
}

TEST_F(GpuTrainTest, AutoTakesTheGpuAndSaysSo) {
  const Result r = Run("train tiny.textproto --out run");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("machine     GPU 0 ("));
}

TEST_F(GpuTrainTest, EveryMeshTrainsLikeTheCpu) {
  if (Gpus() < 3) GTEST_SKIP() << "needs 3 GPUs, there are " << Gpus();
  Train("cpu", kCpu);
  TrainOnMesh(1, 2, "wavefront2", "");
  TrainOnMesh(1, 3, "wavefront3", "");
  TrainOnMesh(1, 2, "prefix2", kPrefix);
  TrainOnMesh(1, 3, "prefix3", kPrefix);
  TrainOnMesh(2, 1, "data2", "");
  TrainOnMesh(3, 1, "data3", "");
}

TEST_F(GpuTrainTest, CarriedStatesCrossRanks) {
  if (Gpus() < 3) GTEST_SKIP() << "needs 3 GPUs, there are " << Gpus();
  const std::string carried = " --set data.packing=CARRIED ";
  Train("cpu", kCpu + carried);
  TrainOnMesh(1, 3, "wavefront3", carried);
  TrainOnMesh(1, 2, "prefix2", kPrefix + carried);
}

// Saved on one device after step 3, gone on with on the other.
TEST_F(GpuTrainTest, CheckpointsResumeOnTheOtherDevice) {
  Train("cpu", kCpu);
  for (const auto& [first, then] : {std::pair(kCpu, kCuda), {kCuda, kCpu}}) {
    std::filesystem::remove_all(dir_ + "/run");
    Train("run", first);
    ForgetLastCheckpoint("run");
    const Result r = Run("train tiny.textproto --threads 1 --out run --resume" +
                         std::string(then));
    ASSERT_EQ(r.status, 0) << r.err;
    EXPECT_THAT(r.out, HasSubstr("resuming from run/checkpoints/step-000003"));
    ExpectAlike("cpu", "run", 2e-5);
  }
}

TEST_F(GpuTrainTest, EvaluatesAndGeneratesLikeTheCpu) {
  Train("cpu", kCpu);
  const std::string generate =
      "generate cpu --prompt 'int value' --tokens 24 --temperature 0 --device ";
  Result cpu = Run(generate + "CPU"), cuda = Run(generate + "CUDA");
  ASSERT_EQ(cuda.status, 0) << cuda.err;
  EXPECT_EQ(cpu.out, cuda.out);
  const std::string eval = "eval cpu data --device ";
  cpu = Run(eval + "CPU");
  cuda = Run(eval + "CUDA");
  ASSERT_EQ(cuda.status, 0) << cuda.err;
  ASSERT_EQ(cpu.status, 0) << cpu.err;
  // "loss 5.1234 | ..."
  const auto loss = [](const std::string& out) {
    return std::stod(out.substr(out.find("loss ") + 5));
  };
  EXPECT_NEAR(loss(cuda.out), loss(cpu.out), 2e-4);
}

TEST_F(GpuTrainTest, MoreRanksThanGpusAreRefused) {
  const int ranks = Gpus() + 1;
  const Result r = TrainOn(ranks, 1, "run", kCuda);
  EXPECT_NE(r.status, 0);
  EXPECT_THAT(r.err, HasSubstr("ranks 0 and " + std::to_string(ranks - 1) +
                               " would share GPU"));
  EXPECT_THAT(r.err, HasSubstr("device: CPU"));
}

TEST_F(GpuTrainTest, WhatDoesNotFitIsRefusedBeforeItStarts) {
  const Result r =
      Run("train tiny.textproto --out run --set model.hidden_size=1024 "
          "--set model.num_layers=4096 "
          "--set training.sequence_length=64" +
          std::string(kCuda));
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("this recipe needs about"));
  EXPECT_THAT(r.err, Not(HasSubstr("internal error")));
}

}  // namespace
}  // namespace carry
