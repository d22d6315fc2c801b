// carry_kernel_bench: the machine's yardsticks, then every kernel as a share of
// the one that limits it. See kernels/bench/README.md.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "hwy/highway.h"
#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/instruction_set.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

struct Flags {
  int threads = 0;
  int rounds = 7;
  std::string filter;
  std::string target;
};

constexpr char kHelp[] =
    "carry_kernel_bench [--threads=N] [--rounds=N] [--filter=TEXT]"
    " [--target=NAME]\n"
    "  Times every kernel against the limit that holds it, measured in turns.\n"
    "  --filter   only rows that contain TEXT\n"
    "  --target   force an instruction set: AVX3, AVX2, SSE4, SSSE3, ...\n"
    "Example: carry_kernel_bench --threads=1 --filter=scan --target=AVX2\n";

bool Parse(int argc, char** argv, Flags* flags) {
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    const size_t equals = arg.find('=');
    const std::string name = arg.substr(0, equals);
    const std::string value =
        equals == std::string::npos ? "" : arg.substr(equals + 1);
    if (name == "--threads") {
      flags->threads = std::atoi(value.c_str());
    } else if (name == "--rounds") {
      flags->rounds = std::atoi(value.c_str());
    } else if (name == "--filter") {
      flags->filter = value;
    } else if (name == "--target") {
      flags->target = value;
    } else {
      std::fputs(kHelp, name == "--help" ? stdout : stderr);
      std::exit(name == "--help" ? 0 : 1);
    }
  }
  return flags->rounds > 0 && flags->threads >= 0;
}

bool ForceTarget(const std::string& name) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (name != hwy::TargetName(target)) continue;
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return true;
  }
  std::fprintf(stderr,
               "error: no target %s; this CPU and build have:", name.c_str());
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    std::fprintf(stderr, " %s", hwy::TargetName(target));
  }
  std::fputs("\n", stderr);
  return false;
}

void PrintYardsticks(int rounds) {
  struct Line {
    const char* what;
    const char* unit;
    double (*measure)();
    std::vector<double> samples;
  };
  Line lines[] = {
      {"fused multiply-add", "GFLOP/s", FmaGflops, {}},
      {"product, fp32",
       "GFLOP/s",
       [] { return MatMulGflops(DType::kF32); },
       {}},
      {"product, bf16",
       "GFLOP/s",
       [] { return MatMulGflops(DType::kBF16); },
       {}},
      {"exp(dt A) alone", "G exp/s", ExpRate, {}},
      {"memory read", "GB/s", ReadBandwidth, {}},
      {"memory copy", "GB/s", [] { return CopyBandwidth(false); }, {}},
      {"  past the caches", "GB/s", [] { return CopyBandwidth(true); }, {}},
      {"memory write", "GB/s", [] { return WriteBandwidth(false); }, {}},
      {"  past the caches", "GB/s", [] { return WriteBandwidth(true); }, {}},
  };
  for (int r = 0; r < rounds; ++r) {
    for (Line& line : lines) line.samples.push_back(line.measure());
  }
  std::printf("%-26s %10s %10s\n", "yardstick", "best", "median");
  for (Line& line : lines) {
    std::sort(line.samples.begin(), line.samples.end());
    std::printf("%-26s %10.1f %10.1f  %s\n", line.what, line.samples.back(),
                line.samples[line.samples.size() / 2], line.unit);
  }
}

void PrintRow(const BenchRow& row, const BenchResult& r) {
  std::printf("%-18s %-30s %9.3f %8.1f %8.1f %-8s %5.0f%% %5.0f%%  %s\n",
              row.op.c_str(), row.shape.c_str(), r.best_ms, r.best, r.median,
              row.unit.c_str(), 100 * r.best_share, 100 * r.median_share,
              row.limit_name.c_str());
  std::fflush(stdout);
}

int Main(int argc, char** argv) {
  Flags flags;
  if (!Parse(argc, argv, &flags)) {
    std::fputs(kHelp, stderr);
    return 1;
  }
  if (flags.threads > 0) SetNumThreads(flags.threads);
  if (!flags.target.empty() && !ForceTarget(flags.target)) return 1;
  std::printf("threads %d, instruction set %s\n\n", NumThreads(),
              InstructionSet());
  PrintYardsticks(flags.rounds);
  std::printf("\n%-18s %-30s %9s %8s %8s %-8s %6s %6s  %s\n", "kernel", "shape",
              "ms", "best", "median", "", "share", "median", "of");
  for (const BenchRowMaker& maker : AllBenchRows()) {
    if (maker.name.find(flags.filter) == std::string::npos) continue;
    const BenchRow row = maker.make();
    PrintRow(row, RunBenchRow(row, flags.rounds));
  }
  return 0;
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) { return carry::Main(argc, argv); }
