// A rank that dies or stops: the others end and say for whom they waited, no
// process is left, and the run goes on from its last checkpoint.
#include <signal.h>

#include <chrono>
#include <thread>

#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::AnyOf;
using testing::ContainsRegex;
using testing::HasSubstr;

struct Fault {
  const char* name;
  int count;  // which of its messages rank 1 does not get to send
  const char* operation;
  const char* direction;
  const char* schedule;
  // How rank 0's wait ends up in its error where rank 1 only stopped.
  const char* error;
};

// Each is in the fourth step or, "Save", in the second checkpoint: the first,
// of step 3, is whole.
const Fault kFaults[] = {
    // Rank 1 sends 3 chunk edges x 2 layers x 2 passes a step.
    {"Forward", 3 * 12 + 4, "carry", "forward", "WAVEFRONT",
     "rank 0 receiving from rank 1 in carry, layer [01], chunk [246], forward"},
    {"Backward", 3 * 16 + 4, "carry", "backward", "WAVEFRONT",
     "rank 0 receiving from rank 1 in carry, layer [01], chunk [0246], "
     "backward"},
    {"PrefixForward", 3 * 4 + 2, "summary", "forward", "PREFIX",
     "rank 0 receiving from rank 1 in summary, layer 1, forward"},
    {"PrefixBackward", 3 * 4 + 2, "halo gradient", "backward", "PREFIX",
     "rank 0 receiving from rank 1 in halo gradient, layer 0, chunk 1, "
     "backward"},
    {"Reduction", 3 * 4 + 4, "gradient reduction", "-", "WAVEFRONT",
     "rank 0 (receiving from|sending to) rank 1 in gradient reduction.*, "
     "backward"},
    {"Save", 3, "checkpoint files", "-", "WAVEFRONT",
     "rank 0 receiving from rank 1 in checkpoint files"},
};

// Dead, or only waiting for its parent to hear of it.
bool IsGone(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(stat, text)) return true;
  const size_t end = text.rfind(')');  // of the program's name
  return end == std::string::npos || text[end + 2] == 'Z' ||
         text[end + 2] == 'X';
}

// The launcher ends a moment before the processes that it has killed.
bool Gone(pid_t pid) {
  for (int i = 0; i < 100 && !IsGone(pid); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  return IsGone(pid);
}

class RanksFaultTest
    : public RanksProgramTest,
      public testing::WithParamInterface<std::tuple<Fault, int>> {
 protected:
  // Process ids that the ranks of `run` wrote.
  std::vector<pid_t> Pids(const std::string& run) {
    std::vector<pid_t> pids;
    for (int r = 0; r < 2; ++r) {
      pids.push_back(std::atoi(
          Slurp(dir_ + "/" + run + ".pid." + std::to_string(r)).c_str()));
      EXPECT_GT(pids.back(), 1);
    }
    return pids;
  }
};

INSTANTIATE_TEST_SUITE_P(Faults, RanksFaultTest,
                         testing::Combine(testing::ValuesIn(kFaults),
                                          testing::Values(SIGKILL, SIGSTOP)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param).name) +
                                  (std::get<1>(info.param) == SIGKILL
                                       ? "Killed"
                                       : "Stopped");
                         });

TEST_P(RanksFaultTest, AllEndAndTheRunGoesOn) {
  const auto& [fault, signal] = GetParam();
  const std::string schedule =
      std::string("--set parallel.schedule=") + fault.schedule;
  ASSERT_EQ(TrainOn(1, 2, "whole", schedule).status, 0);

  std::string recipe = Slurp(dir_ + "/tiny.textproto");
  recipe +=
      std::string("parallel { sequence: 2 timeout_seconds: 4 schedule: ") +
      fault.schedule + " }";
  Write("faulty.textproto", recipe);
  const auto begin = std::chrono::steady_clock::now();
  const Result r =
      Mpirun("-n 2 '" RANKS_FAULT_PROGRAM "' 1 " + std::to_string(signal) +
             " " + std::to_string(fault.count) + " '" + fault.operation + "' " +
             fault.direction + " faulty.textproto run");
  const std::chrono::duration<double> took =
      std::chrono::steady_clock::now() - begin;
  EXPECT_NE(r.status, 0);
  EXPECT_LT(took.count(), 60);  // by far: the timeout is 4 s
  if (signal == SIGSTOP) {
    EXPECT_THAT(r.err, ContainsRegex(fault.error));
    EXPECT_THAT(r.err, HasSubstr("nothing came for 4 s"));
  } else {
    // The launcher sees it first, and ends the others.
    EXPECT_THAT(r.err, AnyOf(ContainsRegex(fault.error),
                             ContainsRegex("rank 1 .*signal 9")));
  }
  for (const pid_t pid : Pids("run")) {
    EXPECT_TRUE(Gone(pid)) << "process " << pid << " is still there";
  }

  // Three whole steps were logged and saved; what follows is as if nothing had
  // been.
  EXPECT_TRUE(std::filesystem::exists(dir_ + "/run/checkpoints/step-000003"));
  EXPECT_FALSE(std::filesystem::exists(dir_ + "/run/checkpoints/step-000005"));
  const Result resumed = TrainOn(1, 2, "run", schedule + " --resume");
  ASSERT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_THAT(resumed.out,
              HasSubstr("resuming from run/checkpoints/step-000003"));
  EXPECT_EQ(resumed.err.find("passed over"), std::string::npos) << resumed.err;
  EXPECT_EQ(Losses("run"), Losses("whole"));
}

}  // namespace
}  // namespace carry
