#include "launch/machine.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/instruction_set.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

// "Intel(R) Xeon(R) ...", or nothing where the system does not say.
std::string CpuName() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!absl::StartsWith(line, "model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "";
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
}

// mpirun binds each of two ranks to one core unless it is told otherwise.
std::string IdleCores(int ranks_here, int64_t idle) {
  return absl::StrCat(", ", idle, " idle",
                      ranks_here > 1
                          ? " (mpirun --bind-to none lets the ranks share them)"
                          : " (this process may not use them)");
}

std::string HugePages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::stringstream text;
  text << file.rdbuf();
  if (text.str().empty()) return "huge pages unknown";
  // The kernel takes the madvise of large tensors in both modes.
  if (!absl::StrContains(text.str(), "[never]")) return "huge pages";
  return "no huge pages (streams are 5-8% slower; see "
         "/sys/kernel/mm/transparent_hugepage/enabled)";
}

}  // namespace

double MeasureMatMulPeak(DType dtype) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  double best = 0;
  do {
    best = std::max(best, MatMulGflops(dtype));
  } while (Clock::now() - begin < std::chrono::milliseconds(200));
  return best * 1e9;
}

std::string DescribeMachine(int ranks_here) {
  const std::string cpu = CpuName();
  const int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
  const int64_t used = int64_t{ranks_here} * UsableCores();
  return absl::StrCat(NumThreads(), NumThreads() == 1 ? " thread" : " threads",
                      " on ", UsableCores(), " of ", cores, " cores",
                      used >= cores ? "" : IdleCores(ranks_here, cores - used),
                      cpu.empty() ? "" : absl::StrCat(" (", cpu, ")"), ", ",
                      InstructionSet(), ", ", HugePages());
}

}  // namespace carry
