// What users meet when something about GPUs goes wrong: each fault ends the run
// in time, says what, where and what to do, and leaves no process and no
// damaged checkpoint behind. tests/gpu/faults.cc makes the faults.
#include <dirent.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// A fault of the fourth step.
const std::string kSaved = " run/checkpoints/step-000003";

class GpuFaultTest : public RanksProgramTest {
 protected:
  void SetUp() override {
    RanksProgramTest::SetUp();
    std::string recipe = Slurp(dir_ + "/tiny.textproto");
    recipe.replace(recipe.find("batch_size: 4"), 13, "batch_size: 2");
    Write("tiny.textproto",
          recipe + "device: CUDA parallel { timeout_seconds: 6 }");
  }
  void TearDown() override { EXPECT_EQ(ProcessesLeft(), 0); }

  static int Gpus() { return cuda::CountDevices().value_or(0); }

  // "FUNCTION COUNT ACTION" in the only process.
  Result TrainAlone(const std::string& fault, const std::string& more = "") {
    return Run("train tiny.textproto --threads 1 --out run " + more,
               fault.empty() ? ""
                             : "CARRY_FAULT='0 " + fault +
                                   "' LD_PRELOAD='" GPU_FAULTS "'");
  }

  // In rank 1 of 2, on a GPU each.
  Result TrainPair(const std::string& fault, const std::string& more = "") {
    return Mpirun("-x CARRY_FAULT='1 " + fault + "' -x LD_PRELOAD='" +
                  GPU_FAULTS + "' -n 2 '" + CARRY_PROGRAM +
                  "' train tiny.textproto --threads 1 --out run "
                  "--set parallel.sequence=2 " +
                  more);
  }

  // Of this test: their working folder is its own.
  int ProcessesLeft() const {
    int left = 0;
    for (int i = 0; i < 100; ++i) {
      left = 0;
      DIR* processes = opendir("/proc");
      while (const dirent* entry = readdir(processes)) {
        char folder[512] = "";
        const std::string link = std::string("/proc/") + entry->d_name + "/cwd";
        if (readlink(link.c_str(), folder, sizeof(folder) - 1) > 0) {
          left += folder == dir_;
        }
      }
      closedir(processes);
      if (left == 0) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return left;
  }

  void ExpectRefused(const Result& r, const std::string& says) {
    EXPECT_NE(r.status, 0);
    EXPECT_THAT(r.err, HasSubstr("carry: error: "));
    EXPECT_THAT(r.err, HasSubstr(says));
    ExpectNoCrash(r);
    EXPECT_FALSE(std::filesystem::exists(dir_ + "/run/checkpoints"));
  }
  static void ExpectNoCrash(const Result& r) {
    EXPECT_THAT(r.err, Not(HasSubstr("internal error")));
    EXPECT_THAT(r.err, Not(HasSubstr("terminate called")));
    EXPECT_THAT(r.err, Not(ContainsRegex("[Ss]ignal:? .*(6|11)")));
  }

  // The run was ended after its checkpoint of step 3 and goes on from there as
  // if nothing had been.
  void ExpectGoesOn(bool pair, const std::string& more = "") {
    EXPECT_TRUE(std::filesystem::exists(dir_ + "/run/checkpoints/step-000003"));
    EXPECT_FALSE(
        std::filesystem::exists(dir_ + "/run/checkpoints/step-000005"));
    const Result resumed = pair ? TrainOn(1, 2, "run", more + " --resume")
                                : TrainAlone("", more + " --resume");
    ASSERT_EQ(resumed.status, 0) << resumed.err;
    EXPECT_THAT(resumed.out,
                HasSubstr("resuming from run/checkpoints/step-000003"));
    EXPECT_THAT(resumed.err, Not(HasSubstr("passed over")));
    EXPECT_EQ(Losses("run"), WholeLosses(pair, more));
  }

  // Without a fault; such a run is made once.
  const std::vector<double>& WholeLosses(bool pair, const std::string& more) {
    static std::map<std::pair<bool, std::string>, std::vector<double>> made;
    std::vector<double>& losses = made[{pair, more}];
    if (!losses.empty()) return losses;
    const Result r =
        pair ? TrainOn(1, 2, "whole", more)
             : Run("train tiny.textproto --threads 1 --out whole " + more);
    EXPECT_EQ(r.status, 0) << r.err;
    return losses = Losses("whole");
  }

  // A library that is no library, found before any other.
  std::string Damaged(const std::string& library) {
    Write("broken/" + library, "");
    const char* path = std::getenv("LD_LIBRARY_PATH");
    return "LD_LIBRARY_PATH='" + dir_ + "/broken:" + (path ? path : "") + "'";
  }
};

class GpuPairFaultTest : public GpuFaultTest {
 protected:
  void SetUp() override {
    if (Gpus() < 2) GTEST_SKIP() << "needs 2 GPUs, there are " << Gpus();
    GpuFaultTest::SetUp();
  }
};

// What the driver finds.

TEST_F(GpuFaultTest, AGpuThatIsTooOldIsRefused) {
  const std::string fault = "cudaGetDeviceProperties 1 sm_75";
  Result r = TrainAlone(fault);
  ExpectRefused(r, "is of architecture sm_75; this program was compiled for");
  EXPECT_THAT(r.err, HasSubstr("CUDA_VISIBLE_DEVICES or set device: CPU"));
  r = TrainAlone(fault, "--set device=AUTO");
  EXPECT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, ContainsRegex("no GPU: GPU 0 .* architecture sm_75;"));
}

TEST_F(GpuFaultTest, WhatTheDriverSaysIsPassedOn) {
  struct Case {
    const char* code;
    const char* says;
  };
  for (const Case& c : {Case{"35", "install a newer driver"},
                        Case{"100", "check nvidia-smi and CUDA_VISIBLE"},
                        Case{"802", "start nvidia-fabricmanager"},
                        Case{"803", "does not fit this program's CUDA"}}) {
    const Result r = TrainAlone(std::string("cudaGetDeviceCount 1 ") + c.code);
    ExpectRefused(r, c.says);
    EXPECT_THAT(r.err, StartsWith("carry: error: looking for GPUs: cudaError"));
    EXPECT_THAT(r.err, HasSubstr("set device: CPU"));
  }
}

TEST_F(GpuPairFaultTest, RanksMustHaveGpusOfOneModel) {
  ExpectRefused(TrainPair("cudaGetDeviceProperties 1 A100"),
                "rank 1 one of A100; choose machines of one model");
}

TEST_F(GpuPairFaultTest, ARankWithoutAGpuIsNamed) {
  for (const char* device : {"CUDA", "AUTO"}) {
    const Result r = TrainPair("cudaGetDeviceCount 1 100",
                               std::string("--set device=") + device);
    ExpectRefused(r, "carry: error: rank 1: looking for GPUs: cudaErrorNoDev");
    EXPECT_THAT(r.err, HasSubstr("other ranks have a GPU"));
  }
}

// Libraries.

TEST_F(GpuFaultTest, WithoutCuBlasNothingStarts) {
  const Result r =
      Run("train tiny.textproto --out run", Damaged("libcublas.so.13"));
  ExpectRefused(r, "cuBLAS: ");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("libcublas.so.13: file too short; install the "
                               "cuBLAS of this CUDA version"));
}

TEST_F(GpuFaultTest, ACuBlasThatDoesNotStartSaysWhy) {
  ExpectRefused(TrainAlone("cublasCreate_v2 1 3"),
                "cuBLAS: the GPU has no memory left for it; another program");
  const Result r = TrainAlone("cublasCreate_v2 1 1");
  ExpectRefused(r, "cuBLAS: ");
  EXPECT_THAT(r.err, HasSubstr("install the cuBLAS of this CUDA version"));
}

TEST_F(GpuPairFaultTest, WithoutCuBlasAllRanksEnd) {
  ExpectRefused(Mpirun("-x " + Damaged("libcublas.so.13") +
                       " -n 2 '" CARRY_PROGRAM
                       "' train tiny.textproto --set parallel.sequence=2"),
                "libcublas.so.13: file too short");
}

TEST_F(GpuPairFaultTest, WithoutNcclAllRanksEnd) {
  const Result r = Mpirun("-x " + Damaged("libnccl.so.2") +
                          " -n 2 '" CARRY_PROGRAM
                          "' train tiny.textproto --set parallel.sequence=2");
  ExpectRefused(r, "ranks on GPUs need NCCL: ");
  EXPECT_THAT(r.err, HasSubstr("libnccl.so.2: file too short; install NCCL "));
}

TEST_F(GpuPairFaultTest, AnOldNcclIsRefused) {
  const Result r = TrainPair("ncclGetVersion 1 21703");
  ExpectRefused(r, "NCCL 2.17.3, which is too old; install NCCL 2.18");
}

// Memory.

TEST_F(GpuFaultTest, MemoryThatRunsOutInAStepSaysWhoHasIt) {
  const Result r = TrainAlone("cudaMalloc 100 2");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err,
              ContainsRegex(
                  "^carry: error: out of memory on the GPU: [0-9.]+ [KM]?i?B "
                  "asked for by [a-z]+, [0-9.]+ [A-Z]iB free on the GPU, "
                  "[0-9.]+ [KM]iB in use \\(parameters [^)]*activations [^)]*"
                  "\\); lower training.chunk_length, "
                  "training.micro_batch_size or training.tape_memory_budget"));
  ExpectNoCrash(r);
}

TEST_F(GpuFaultTest, PinnedMemoryThatRunsOutIsAnError) {
  const Result r = TrainAlone("cudaMallocHost 1 2");
  ExpectRefused(r, "no pinned host memory for copies to the GPU");
  EXPECT_EQ(r.status, 1);
}

TEST_F(GpuPairFaultTest, MemoryThatRunsOutInOneRankEndsAll) {
  const Result r = TrainPair("cudaMalloc 100 2");
  EXPECT_NE(r.status, 0);
  EXPECT_THAT(r.err, HasSubstr("carry: error: out of memory on the GPU: "));
  ExpectNoCrash(r);
}

// Sizes.

TEST_F(GpuFaultTest, MoreSequencesThanAGridHasRowsAreRefused) {
  const Result r = TrainAlone(
      "",
      "--set training.batch_size=65600 --set training.micro_batch_size=0 "
      "--set training.sequence_length=4");
  ExpectRefused(r, "at most 65535 sequences at once, and 65600 are wanted");
  EXPECT_EQ(r.status, 1);
}

// Errors of CUDA and its libraries in the fourth step.

struct StepFault {
  const char* name;
  std::string fault;
  const char* says;
};

class GpuStepFaultTest : public GpuFaultTest,
                         public testing::WithParamInterface<StepFault> {};

INSTANTIATE_TEST_SUITE_P(
    Faults, GpuStepFaultTest,
    testing::Values(
        StepFault{"Launch", "cudaLaunchKernelExC 77 1 ",
                  "carry: error: [a-z_0-9 ]+: cudaErrorInvalidValue, "},
        StepFault{"Product", "cublasGemmEx 77 13 ",
                  "carry: error: a matrix product of [0-9]+ x [0-9]+ x [0-9]+ "
                  "by cuBLAS: "},
        StepFault{"Address", "cudaStreamSynchronize 1 700 ",
                  "carry: error: the GPU's work since the last wait: "
                  "cudaErrorIllegalAddress, "}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(GpuStepFaultTest, EndsTheRunWhichGoesOn) {
  const Result r = TrainAlone(GetParam().fault + kSaved);
  EXPECT_EQ(r.status, 1) << r.out;
  EXPECT_THAT(r.err, ContainsRegex(GetParam().says));
  ExpectNoCrash(r);
  ExpectGoesOn(false);
}

// A rank that dies, stops, fails or sends what it should not, in the fourth
// step.

struct PeerFault {
  const char* name;
  std::string fault;
  const char* more;
  const char* says;
};

class GpuPeerFaultTest : public GpuPairFaultTest,
                         public testing::WithParamInterface<PeerFault> {};

constexpr char kWavefront[] = "--set parallel.schedule=WAVEFRONT";
constexpr char kPrefix[] = "--set parallel.schedule=PREFIX";
constexpr char kMpi[] =
    "--set parallel.schedule=WAVEFRONT --set parallel.transport=MPI";
constexpr char kKilled[] =
    "rank 1 .*signal 9|rank 0 (receiving from|sending to) rank 1 in";
// Which of its waits a rank was in, it knows where the driver answers.
constexpr char kNothing[] =
    "rank 0 (receiving from rank 1|sending to rank 1|of 2) in [a-z ]+(, layer "
    "[0-9])?(, chunk [0-9])?(, forward|, backward)?: nothing came for 6 s";
constexpr char kDamaged[] =
    "rank 0: what came from rank 1 as (carry|summary|halo|gradient summary|"
    "halo gradient), layer [01].*(forward|backward) is not what that rank made "
    "for it: .* the run stops here, its last checkpoint is good";

// Rank 1 sends 6 carries forward and 8 backward a step, or 4 summaries.
INSTANTIATE_TEST_SUITE_P(
    Faults, GpuPeerFaultTest,
    testing::Values(
        PeerFault{"ForwardKilled", "ncclSend 3 kill", kWavefront, kKilled},
        PeerFault{"ForwardStopped", "ncclSend 3 stop", kWavefront, kNothing},
        PeerFault{"BackwardStopped", "ncclSend 10 stop", kWavefront, kNothing},
        PeerFault{"ForwardDamaged", "ncclSend 3 damage", kWavefront, kDamaged},
        PeerFault{"BackwardDamaged", "ncclSend 10 damage", kWavefront,
                  kDamaged},
        PeerFault{"ForwardSwapped", "ncclSend 3 swap", kWavefront, kDamaged},
        PeerFault{"ForwardRefused", "ncclSend 3 2", kWavefront,
                  "rank 1 sending to rank 0 in carry, layer [01], chunk [0-9], "
                  "forward: NCCL: "},
        PeerFault{"SummaryStopped", "ncclAllGather 2 stop", kPrefix, kNothing},
        PeerFault{"SummaryDamaged", "ncclAllGather 3 damage", kPrefix,
                  kDamaged},
        PeerFault{"ReductionKilled", "ncclReduceScatter 2 kill", kWavefront,
                  kKilled},
        PeerFault{"MpiKilled", "MPI_Isend 3 kill", kMpi, kKilled},
        PeerFault{"MpiStopped", "MPI_Isend 3 stop", kMpi, kNothing},
        PeerFault{"MpiDamaged", "MPI_Isend 3 damage", kMpi, kDamaged},
        PeerFault{"HaloStopped", "ncclSend 2 stop", kPrefix, kNothing},
        PeerFault{"HaloDamaged", "ncclSend 2 damage", kPrefix, kDamaged},
        PeerFault{"ReductionStopped", "ncclReduceScatter 2 stop", kWavefront,
                  kNothing}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_P(GpuPeerFaultTest, AllEndAndTheRunGoesOn) {
  const auto begin = std::chrono::steady_clock::now();
  const Result r = TrainPair(GetParam().fault + kSaved, GetParam().more);
  const std::chrono::duration<double> took =
      std::chrono::steady_clock::now() - begin;
  EXPECT_NE(r.status, 0) << r.out;
  EXPECT_LT(took.count(), 60);
  EXPECT_THAT(r.err, ContainsRegex(GetParam().says));
  ExpectNoCrash(r);
  ExpectGoesOn(true, GetParam().more);
}

}  // namespace
}  // namespace carry
