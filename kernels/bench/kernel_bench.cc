// carry_kernel_bench: the machine's yardsticks, then every kernel as a share of
// the one that limits it. See kernels/bench/README.md.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
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
    "  --filter   only rows that contain TEXT, or one of TEXT,TEXT; without "
    "this\n"
    "             the machine's yardsticks come first\n"
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
  if (UseTarget(name)) return true;
  std::fprintf(stderr,
               "error: no target %s; this CPU and build have:", name.c_str());
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    std::fprintf(stderr, " %s", hwy::TargetName(target));
  }
  std::fputs("\n", stderr);
  return false;
}

std::string Processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) == 0)
      return line.substr(line.find(':') + 2);
  }
  return "unknown processor";
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

// Whether `name` contains one of the comma-separated texts of `filter`.
bool Matches(const std::string& name, const std::string& filter) {
  for (size_t begin = 0; begin <= filter.size();) {
    const size_t end = std::min(filter.find(',', begin), filter.size());
    if (name.find(filter.substr(begin, end - begin)) != std::string::npos) {
      return true;
    }
    begin = end + 1;
  }
  return false;
}

void PrintRow(const BenchRow& row, const BenchResult& r) {
  char bar[32] = "";
  if (row.bar > 0) {
    std::snprintf(bar, sizeof(bar), "%.4g%%%s", 100 * row.bar,
                  r.best_share < row.bar ? " below" : "");
  }
  std::printf("%-17s %-29s %8.3f %7.1f %7.1f %-8s %6.1f%% %6.1f%%  %-13s %s\n",
              row.op.c_str(), row.shape.c_str(), r.best_ms, r.best, r.median,
              row.unit.c_str(), 100 * r.best_share, 100 * r.median_share,
              row.limit_name.c_str(), bar);
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
  std::printf("%s, threads %d, instruction set %s\n\n", Processor().c_str(),
              NumThreads(), InstructionSet());
  if (flags.filter.empty()) PrintYardsticks(flags.rounds);
  std::printf("\n%-17s %-29s %8s %7s %7s %-8s %7s %7s  %-13s %s\n", "kernel",
              "shape", "ms", "best", "median", "", "share", "median", "of",
              "bar");
  for (const BenchRowMaker& maker : AllBenchRows()) {
    if (!Matches(maker.name, flags.filter)) continue;
    const BenchRow row = maker.make();
    PrintRow(row, RunBenchRow(row, flags.rounds));
  }
  return 0;
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) { return carry::Main(argc, argv); }
