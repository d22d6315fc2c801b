// Rows of the other tables against themselves: with one thread, or with another
// instruction set.

#include <algorithm>

#include "kernels/bench/rows.h"
#include "kernels/check.h"
#include "kernels/instruction_set.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

BenchRowMaker Find(const std::vector<BenchRowMaker>& rows,
                   const std::string& name) {
  const auto it = std::find_if(rows.begin(), rows.end(),
                               [&](const auto& r) { return r.name == name; });
  CARRY_CHECK(it != rows.end());
  return *it;
}

void AddThreads(const BenchRowMaker& of, std::vector<BenchRowMaker>* rows) {
  rows->push_back({"threads: " + of.name, [of] {
                     BenchRow row = of.make();
                     row.op = "threads: " + row.op;
                     row.limit_name = "one thread";
                     row.limit = [run = row.run, work = row.work] {
                       const int threads = NumThreads();
                       SetNumThreads(1);
                       const double rate = MeasureRate(work, run);
                       SetNumThreads(threads);
                       return rate;
                     };
                     row.bar = NumThreads() == 2 ? 1.8 : 0;
                     return row;
                   }});
}

void AddTarget(const BenchRowMaker& of, const std::string& target, double bar,
               std::vector<BenchRowMaker>* rows) {
  rows->push_back({target + ": " + of.name, [of, target, bar] {
                     BenchRow row = of.make();
                     row.op = target + ": " + row.op;
                     const std::string best = InstructionSet();
                     const auto run = row.run;
                     row.limit_name = best;
                     row.limit = [=, work = row.work] {
                       return MeasureRate(work, run);
                     };
                     row.run = [=] {
                       CARRY_CHECK(UseTarget(target));
                       run();
                       CARRY_CHECK(UseTarget(best));
                     };
                     row.bar = bar;
                     return row;
                   }});
}

}  // namespace

void AddComparisonRows(std::vector<BenchRowMaker>* rows) {
  const std::vector<BenchRowMaker> all = *rows;
  for (const char* name :
       {"scan forward fp32 B1 T2048 E1536 N16",
        "scan backward fp32 B1 T2048 E1536 N16",
        "scan forward bf16 B1 T2048 E1536 N16",
        "scan backward bf16 B1 T2048 E1536 N16",
        "conv forward fp32 R2048 E1536 K4", "norm forward fp32 R2048 D768",
        "cross-entropy fp32 R512 V50280", "adamw 32M parameters",
        "matmul packed fp32 in_proj M2048 N3072 K768",
        "matmul packed bf16 in_proj M2048 N3072 K768"}) {
    if (NumThreads() > 1) AddThreads(Find(all, name), rows);
  }
  for (const char* name : {"scan forward fp32 B1 T2048 E1536 N16",
                           "scan backward fp32 B1 T2048 E1536 N16"}) {
    for (const char* target : {"AVX2", "SSE4"}) {
      const bool usable =
          HasTarget(target) && InstructionSet() != std::string(target);
      const double bar = std::string(target) == "AVX2" ? 0.4 : 0;
      if (usable) AddTarget(Find(all, name), target, bar, rows);
    }
  }
}

}  // namespace carry
