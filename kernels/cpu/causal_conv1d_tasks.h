// How the convolution's passes divide their work, and which taps reach a token.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/causal_conv1d.h"
#include "kernels/check.h"
#include "kernels/parallel_for.h"

namespace carry {

constexpr int64_t kMaxTaps = 8;
// Channels of a block: rows of 2 KB are long enough for the memory, and seven
// of them short enough for L1.
constexpr int64_t kConvBlock = 512;
// The published number of taps has a path of its own, four rows at a time: it
// loads 7 rows for 16 products, and four chains of silu side by side.
constexpr int kFastTaps = 4;
constexpr int kFastRows = 4;
// Most bytes of x and fewest rows of a task. Each task reads K - 1 rows of its
// neighbour; backward it also computes them.
constexpr int64_t kMaxConvBytes = 512 << 10;
constexpr int64_t kMinConvRows = 32;

struct ConvTask {
  int64_t b, t0, t1;  // Rows of batch entry b.
  int64_t c0, width;  // Channels.
};

// How many of the taps before t reach a token: at most K - 1, not past the
// start of the sequence's carry, not past t's document.
inline int64_t ConvReach(const CausalConv1dArgs& args, int64_t b, int64_t t) {
  const int64_t most = args.taps - 1;
  if (args.document_start == nullptr) return most;
  const uint8_t* start = args.document_start + b * args.time;
  for (int64_t j = 0; j < most; ++j) {
    if (t - j < 0) return most;
    if (start[t - j] != 0) return j;
  }
  return most;
}

// Whether no token of [t0, t1) sees less than its K - 1 predecessors in x.
inline bool ConvIsPlain(const CausalConv1dArgs& args, int64_t b, int64_t t0,
                        int64_t t1) {
  if (t0 < args.taps - 1) return false;
  for (int64_t t = t0; t < t1; ++t) {
    if (ConvReach(args, b, t) < args.taps - 1) return false;
  }
  return true;
}

// Input x at time t, which is a carry's slot where t < 0.
inline float InputAt(const CausalConv1dArgs& args, int64_t b, int64_t t,
                     int64_t e) {
  if (t < 0) {
    if (args.carry_in == nullptr) return 0.0f;
    const int64_t slots = args.taps - 1;
    return args.carry_in[(b * args.channels + e) * slots + slots + t];
  }
  const int64_t at = (b * args.time + t) * args.x.stride + e;
  return args.x.dtype == DType::kF32
             ? static_cast<const float*>(args.x.data)[at]
             : ToFloat(static_cast<const BFloat16*>(args.x.data)[at]);
}

// The K inputs that t sees, as fp32 rows in `rows` [K][kConvBlock].
inline void CopyTaps(const CausalConv1dArgs& args, const ConvTask& task,
                     int64_t t, int64_t reach, float* rows) {
  for (int64_t k = 0; k < args.taps; ++k) {
    const int64_t back = args.taps - 1 - k;
    float* row = rows + k * kConvBlock;
    if (back > reach || (back > t && args.carry_in == nullptr)) {
      std::fill_n(row, task.width, 0.0f);
      continue;
    }
    for (int64_t i = 0; i < task.width; ++i) {
      row[i] = InputAt(args, task.b, t - back, task.c0 + i);
    }
  }
}

// [B][time chunks][channel blocks] as one range of tasks.
struct ConvTasks {
  explicit ConvTasks(const CausalConv1dArgs& args)
      : args(args),
        blocks((args.channels + kConvBlock - 1) / kConvBlock),
        rows(kMaxConvBytes / (kConvBlock * SizeOf(args.x.dtype))) {
    while (rows > kMinConvRows && size() < 4 * NumThreads()) rows /= 2;
  }

  int64_t chunks() const { return (args.time + rows - 1) / rows; }
  int64_t size() const { return args.batch * chunks() * blocks; }
  ConvTask operator[](int64_t i) const {
    const int64_t chunk = i / blocks % chunks();
    const int64_t c0 = i % blocks * kConvBlock;
    return {i / blocks / chunks(), chunk * rows,
            std::min(args.time, (chunk + 1) * rows), c0,
            std::min(kConvBlock, args.channels - c0)};
  }

  const CausalConv1dArgs& args;
  const int64_t blocks;
  int64_t rows;  // Of a task.
};

inline void CheckConv(const CausalConv1dArgs& args) {
  CARRY_CHECK(args.batch >= 1 && args.time >= 1 && args.channels >= 1);
  CARRY_CHECK(args.taps >= 1 && args.taps <= kMaxTaps);
}

}  // namespace carry
