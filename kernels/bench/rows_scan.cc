// The selective scan against the rate of its exponentials alone.

#include <memory>

#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"

namespace carry {
namespace {

struct Shape {
  int64_t batch, time, channels, states;
  DType dtype;
};

// Shares of the exponentials alone that the published shape has to reach, and
// other shapes half of.
constexpr double kForwardBar = 0.42, kBackwardBar = 0.21;
// One token: of what memory can be read.
constexpr double kOneTokenBar = 0.7;
// How many times a forward scan's speed a summary has to reach.
constexpr double kSummaryBar = 1.2;

enum class Pass { kInference, kForward, kBackward };

// Arrays of one call; several sets, so that each call finds its inputs where a
// training step would: not in the L2 cache.
struct ScanSet {
  SelectiveScanArgs args;
  SelectiveScanForwardOut out;
  SelectiveScanBackwardArgs grad;
};

ScanSet MakeSet(const Shape& s, BenchPool* pool) {
  const int64_t rows = s.batch * s.time;
  const auto wide = [&](float low, float high) {
    return pool->Matrix(rows, s.channels, s.dtype, low, high);
  };
  const auto narrow = [&] {
    return pool->Matrix(rows, s.states, s.dtype, -1, 1);
  };
  ScanSet set;
  const int64_t en = s.channels * s.states;
  set.args = {s.batch,
              s.time,
              s.channels,
              s.states,
              wide(-1, 1),
              wide(-5, -1),
              wide(-2, 2),
              narrow(),
              narrow(),
              pool->Floats(en, -16, -1),
              pool->Floats(s.channels, 0, 1),
              pool->Floats(s.channels, -1, 0),
              pool->Floats(s.batch * en, -1, 1),
              nullptr};
  const int64_t saved =
      SelectiveScanSavedSize(s.batch, s.time, s.channels, s.states);
  set.out = {wide(0, 0), pool->Floats(s.batch * en, 0, 0),
             pool->Floats(saved, 0, 0)};
  set.grad = {wide(-1, 1),
              nullptr,
              set.out.saved,
              wide(0, 0),
              wide(0, 0),
              wide(0, 0),
              narrow(),
              narrow(),
              pool->Floats(en, 0, 0),
              pool->Floats(s.channels, 0, 0),
              pool->Floats(s.channels, 0, 0),
              pool->Floats(s.batch * en, 0, 0)};
  return set;
}

BenchRow MakeRow(const std::string& op, const std::string& shape,
                 const Shape& s, Pass pass) {
  BenchPool pool;
  const int64_t bytes = s.batch * s.time * s.channels * 4;
  // A step of one token finds nothing of its layer in the caches.
  const int count = s.time == 1 ? 24 : bytes > (1 << 20) ? 3 : 1;
  auto sets = std::make_shared<std::vector<ScanSet>>();
  for (int i = 0; i < count; ++i) {
    sets->push_back(MakeSet(s, &pool));
    SelectiveScanForward(sets->back().args, sets->back().out);
  }
  BenchRow row;
  row.op = op;
  row.shape = shape;
  row.unit = "G/s";
  row.work = 1e-9 * s.batch * s.time * s.channels * s.states;
  row.run = [sets, pass, i = 0]() mutable {
    const ScanSet& set = (*sets)[i++ % sets->size()];
    if (pass == Pass::kBackward) {
      SelectiveScanBackward(set.args, set.grad);
    } else {
      SelectiveScanForwardOut out = set.out;
      if (pass == Pass::kInference) out.saved = nullptr;
      SelectiveScanForward(set.args, out);
    }
  };
  row.limit_name = "exp alone";
  row.limit = ExpRate;
  if (s.time == 1) {
    // Memory bounds one token: A and the states in and out; backward, A, the
    // saved states, and gradients of A, read and written, and of the states.
    const double floats = pass == Pass::kBackward ? 5 : 3;
    row.work *= 4 * floats;
    row.unit = "GB/s";
    row.limit_name = "read";
    row.limit = ReadBandwidth;
  }
  return row;
}

// The cost of a shard's summary against a forward scan that saves nothing.
BenchRow MakeSummaryRow(const std::string& op, const std::string& shape,
                        const Shape& s, bool backward) {
  BenchPool pool;
  auto sets = std::make_shared<std::vector<ScanSet>>();
  for (int i = 0; i < 2; ++i) sets->push_back(MakeSet(s, &pool));
  const int64_t en = s.channels * s.states;
  const ScanSummary to = {pool.Floats(s.batch * en, 0, 0),
                          pool.Floats(s.batch * s.channels, 0, 0)};
  BenchRow row;
  row.op = op;
  row.shape = shape;
  row.unit = "G/s";
  row.work = 1e-9 * s.batch * s.time * en;
  row.run = [sets, to, backward, i = 0]() mutable {
    const ScanSet& set = (*sets)[i++ % sets->size()];
    if (backward) {
      SelectiveScanGradSummary(set.args, set.grad.dout, to);
    } else {
      SelectiveScanSummary(set.args, to);
    }
  };
  const double work = row.work;
  auto forward = [sets, i = 0]() mutable {
    const ScanSet& set = (*sets)[i++ % sets->size()];
    SelectiveScanForwardOut out = set.out;
    out.saved = nullptr;
    SelectiveScanForward(set.args, out);
  };
  row.limit_name = "scan, times";
  row.limit = [=] { return MeasureRate(work, forward); };
  row.bar = kSummaryBar;
  return row;
}

std::string NameOf(const Shape& s) {
  char text[80];
  std::snprintf(text, sizeof(text), "%s B%ld T%ld E%ld N%ld",
                ShortName(s.dtype), static_cast<long>(s.batch),
                static_cast<long>(s.time), static_cast<long>(s.channels),
                static_cast<long>(s.states));
  return text;
}

void Add(const Shape& s, bool published, std::vector<BenchRowMaker>* rows) {
  struct {
    const char* name;
    Pass pass;
    double bar;
  } const passes[] = {{"scan inference", Pass::kInference, 0},
                      {"scan forward", Pass::kForward, kForwardBar},
                      {"scan backward", Pass::kBackward, kBackwardBar}};
  for (const auto& p : passes) {
    if (p.pass == Pass::kInference && !published && s.time > 1) continue;
    const std::string op = p.name, shape = NameOf(s);
    rows->push_back({op + " " + shape, [=] {
                       BenchRow row = MakeRow(op, shape, s, p.pass);
                       row.bar = published ? p.bar : p.bar / 2;
                       if (s.time == 1 && p.bar > 0) row.bar = kOneTokenBar;
                       return row;
                     }});
  }
}

}  // namespace

void AddScanRows(std::vector<BenchRowMaker>* rows) {
  for (DType d : {DType::kF32, DType::kBF16}) {
    Add({1, 2048, 1536, 16, d}, true, rows);
    for (int64_t states : {4, 8, 12}) {
      Add({1, 2048, 1536, states, d}, false, rows);
    }
    Add({1, 512, 1536, 64, d}, false, rows);
    Add({1, 2048, 1500, 16, d}, false, rows);
    Add({1, 2048, 1503, 16, d}, false, rows);
    Add({1, 2048, 512, 16, d}, false, rows);
    Add({4, 512, 1536, 16, d}, false, rows);
    for (int64_t time : {1, 16, 64, 256}) {
      Add({1, time, 1536, 16, d}, false, rows);
    }
  }
}

void AddSummaryRows(std::vector<BenchRowMaker>* rows) {
  for (DType d : {DType::kF32, DType::kBF16}) {
    for (int64_t time : {256, 512, 1024, 2048, 8192}) {
      for (bool backward : {false, true}) {
        const std::string op = backward ? "summary of grad" : "summary";
        const Shape s = {1, time, 1536, 16, d};
        const std::string shape = NameOf(s);
        rows->push_back({op + " " + shape, [=] {
                           return MakeSummaryRow(op, shape, s, backward);
                         }});
      }
    }
  }
}

}  // namespace carry
