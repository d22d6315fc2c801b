// The rows of carry_kernel_bench.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "kernels/types.h"

namespace carry {

struct BenchRow {
  std::string op, shape;
  std::string unit;           // Of work a second.
  double work = 0;            // Of one call, in 1e9 units.
  std::function<void()> run;  // One call; moves on to other memory each time.
  std::string limit_name;
  std::function<double()> limit;  // One sample of the rate that bounds it.
  double bar = 0;                 // The share that it has to reach; 0: none.
};

// Made when its turn comes, since it fills memory.
struct BenchRowMaker {
  std::string name;  // "op shape", for filters.
  std::function<BenchRow()> make;
};

std::vector<BenchRowMaker> AllBenchRows();

// Those of one kind; in rows_*.cc.
void AddScanRows(std::vector<BenchRowMaker>* rows);
void AddSummaryRows(std::vector<BenchRowMaker>* rows);
void AddStreamingRows(std::vector<BenchRowMaker>* rows);
void AddMatMulRows(std::vector<BenchRowMaker>* rows);
void AddStepRows(std::vector<BenchRowMaker>* rows);
// Rows of the above with one thread, or another instruction set, as the limit.
void AddComparisonRows(std::vector<BenchRowMaker>* rows);

struct BenchResult {
  double best_ms = 0;
  double best = 0, median = 0;              // Rates, 1e9 units a second.
  double best_share = 0, median_share = 0;  // Best of best; median of rounds.
};

// `rounds` turns of the limit and the kernel, some 30 ms of each.
BenchResult RunBenchRow(const BenchRow& row, int rounds);

// The best rate of the calls of some 30 ms; `work` of one call in 1e9 units.
double MeasureRate(double work, const std::function<void()>& run);

// The instruction set that the kernels run with: AVX3, AVX2, .. UseTarget:
// false where this build or CPU has none of that name.
bool UseTarget(const std::string& name);
bool HasTarget(const std::string& name);

// Memory that the rows share, 1 GB, and what is left of it for this row.
class BenchPool {
 public:
  BenchPool();  // Begins anew.
  // n floats of values in [low, high] that repeat after 1009.
  float* Floats(int64_t n, float low, float high);
  // Rows of fp32 or bf16.
  MatView Matrix(int64_t rows, int64_t cols, DType dtype, float low,
                 float high);

 private:
  float* next_;
};

const char* ShortName(DType dtype);

}  // namespace carry
