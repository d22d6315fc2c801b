// Partial sums of the scan's backward pass: by thread over channels (dB, dC),
// by batch entry over tokens (dA, dD, ddt_bias).
#pragma once

#include <cstdint>

namespace carry {

// What one thread did: its range of batch * groups and its dB, dC.
struct ThreadPart {
  int64_t begin, end;
  int64_t first, entries;  // Batch entries.
  float* dbc;
};

// Partial sums of one call, in call scratch.
struct ScanSums {
  float* da;     // [B][group][N][16]
  float* dd;     // [B][group * 16]
  float* dbias;  // [B][group * 16]
  float* dbc;    // per thread: [2][rows of its batch entries][N]
};

}  // namespace carry
