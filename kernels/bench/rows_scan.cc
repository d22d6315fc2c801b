// The selective scan against the rate of its exponentials alone.

#include <memory>

#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/selective_scan.h"

namespace carry {
namespace {

struct Shape {
  int64_t batch, time, channels, states;
  DType dtype;
};

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
  const int count = bytes > (1 << 20) ? 3 : 1;
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
  return row;
}

}  // namespace

void AddScanRows(std::vector<BenchRowMaker>* rows) {
  const DType f = DType::kF32, h = DType::kBF16;
  const Shape shapes[] = {
      {1, 2048, 1536, 16, f}, {1, 2048, 1536, 16, h}, {4, 512, 1536, 16, f},
      {1, 2048, 512, 16, f},  {1, 2048, 1536, 4, f},  {1, 2048, 1536, 8, f},
      {1, 2048, 1536, 12, f}, {1, 512, 1536, 64, f},  {1, 2048, 1500, 16, f},
      {1, 2048, 1503, 16, f}, {1, 20, 1536, 16, f},   {1, 1, 1536, 16, f}};
  for (const Shape& s : shapes) {
    char text[80];
    std::snprintf(text, sizeof(text), "%s B%ld T%ld E%ld N%ld",
                  ShortName(s.dtype), static_cast<long>(s.batch),
                  static_cast<long>(s.time), static_cast<long>(s.channels),
                  static_cast<long>(s.states));
    const std::string shape = text;
    const std::pair<const char*, Pass> passes[] = {
        {"scan inference", Pass::kInference},
        {"scan forward", Pass::kForward},
        {"scan backward", Pass::kBackward}};
    for (const auto& [name, pass] : passes) {
      const std::string op = name;
      rows->push_back({op + " " + shape, [=, pass = pass] {
                         return MakeRow(op, shape, s, pass);
                       }});
    }
  }
}

}  // namespace carry
