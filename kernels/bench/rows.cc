#include "kernels/bench/rows.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "hwy/highway.h"
#include "kernels/bench/memory.h"
#include "kernels/check.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

constexpr int64_t kPoolFloats = 256 << 20;
constexpr double kSampleSeconds = 0.03;

BenchMemory& Pool() {
  static auto* pool = new BenchMemory(kPoolFloats);
  return *pool;
}

double Seconds(const std::function<void()>& run, int64_t calls) {
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < calls; ++i) run();
  const std::chrono::duration<double> elapsed =
      std::chrono::steady_clock::now() - start;
  return elapsed.count() / calls;
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
  const double once = std::max(1e-7, Seconds(run, 1));
  return work / Seconds(run, std::max<int64_t>(
                                 1, std::llround(kSampleSeconds / once)));
}

namespace {

// 0: none of that name.
int64_t TargetOf(const std::string& name) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
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
  row.run();
  const double once = std::max(1e-7, Seconds(row.run, 1));
  const int64_t calls =
      std::max<int64_t>(1, std::llround(kSampleSeconds / once));
  std::vector<double> rates, limits, shares;
  for (int i = 0; i < rounds; ++i) {
    const double before = row.limit();
    rates.push_back(row.work / Seconds(row.run, calls));
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
