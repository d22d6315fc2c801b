#include "kernels/bench/rows.h"

#include <algorithm>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/bench/clock.h"
#include "kernels/bench/memory.h"
#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

constexpr int64_t kPoolFloats = 256 << 20;
constexpr double kSampleSeconds = 0.03;
// What is timed at once: short, since whoever shares the machine takes time
// slices of milliseconds out of longer ones.
constexpr double kSliceSeconds = 0.001;

BenchMemory& Pool() {
  static auto* pool = new BenchMemory(kPoolFloats);
  return *pool;
}

double Seconds(const std::function<void()>& run, int64_t calls) {
  const double start = BenchSeconds();
  for (int64_t i = 0; i < calls; ++i) run();
  return (BenchSeconds() - start) / calls;
}

}  // namespace

BenchPool::BenchPool() : next_(Pool().data()) {}

float* BenchPool::Floats(int64_t n, float low, float high) {
  // Odd steps of 4 KB + 320 bytes: arrays do not share cache sets.
  constexpr int64_t kGap = 1024 + 80;
  float* p = next_;
  next_ += (n + 15) / 16 * 16 + kGap;
  CARRY_CHECK(next_ <= Pool().data() + kPoolFloats);
  ParallelRanges((n + 4095) / 4096, [&](int64_t begin, int64_t end, int) {
    const int64_t last = std::min(n, end * 4096);
    for (int64_t i = begin * 4096; i < last; ++i) {
      p[i] = low + (high - low) * static_cast<float>(i * 611 % 1009) / 1009.0f;
    }
  });
  return p;
}

MatView BenchPool::Matrix(int64_t rows, int64_t cols, DType dtype, float low,
                          float high) {
  float* p = Floats(rows * cols, low, high);
  if (dtype == DType::kBF16) {
    // In place: the narrow value never overtakes the wide one it comes from.
    auto* half = reinterpret_cast<BFloat16*>(p);
    for (int64_t i = 0; i < rows * cols; ++i) half[i] = ToBFloat16(p[i]);
  }
  return {p, dtype, rows, cols, cols};
}

const char* ShortName(DType dtype) {
  return dtype == DType::kBF16 ? "bf16" : "fp32";
}

std::vector<BenchRowMaker> AllBenchRows() {
  std::vector<BenchRowMaker> rows;
  AddScanRows(&rows);
  AddSummaryRows(&rows);
  AddStepRows(&rows);
  AddStreamingRows(&rows);
  AddMatMulRows(&rows);
  AddComparisonRows(&rows);
  return rows;
}

double MeasureRate(double work, const std::function<void()>& run) {
  run();
  double best = std::max(1e-7, Seconds(run, 1));
  const auto count = [](double seconds, double once) {
    return std::max<int64_t>(1, std::llround(seconds / once));
  };
  const int64_t calls = count(kSliceSeconds, best);
  const int64_t slices = count(kSampleSeconds, best * calls);
  for (int64_t i = 0; i < slices; ++i) {
    best = std::min(best, Seconds(run, calls));
  }
  return work / best;
}

namespace {

// 0: none of that name.
int64_t TargetOf(const std::string& name) {
  // Before any is forced.
  static const auto* all =
      new std::vector<int64_t>(hwy::SupportedAndGeneratedTargets());
  for (int64_t target : *all) {
    if (name == hwy::TargetName(target)) return target;
  }
  return 0;
}

}  // namespace

bool HasTarget(const std::string& name) { return TargetOf(name) != 0; }

bool UseTarget(const std::string& name) {
  const int64_t target = TargetOf(name);
  if (target == 0) return false;
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  return true;
}

BenchResult RunBenchRow(const BenchRow& row, int rounds) {
  std::vector<double> rates, limits, shares;
  for (int i = 0; i < rounds; ++i) {
    const double before = row.limit();
    rates.push_back(MeasureRate(row.work, row.run));
    limits.push_back(std::max(before, row.limit()));
    shares.push_back(rates.back() / limits.back());
  }
  const auto median = [](std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
  };
  BenchResult result;
  result.best = *std::max_element(rates.begin(), rates.end());
  result.median = median(rates);
  result.best_ms = row.work / result.best * 1e3;
  result.best_share =
      result.best / *std::max_element(limits.begin(), limits.end());
  result.median_share = median(shares);
  return result;
}

}  // namespace carry
