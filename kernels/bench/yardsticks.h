// What this machine can do, measured in this process just now: the limits that
// every speed here is a share of. All use NumThreads() threads.
//
// Each call takes some 10 ms and gives one sample. The machine's speed wanders,
// so take the best or the median of several, interleaved with what they are
// compared with.
#pragma once

#include "kernels/types.h"

namespace carry {

// Fused multiply-adds in registers with the widest vectors, GFLOP/s.
double FmaGflops();

// exp(dt A) of operands in the L1 cache, as the scan computes it and nothing
// else, in 1e9 exponentials a second.
double ExpRate();

// Streams through memory far larger than the caches, GB/s of bytes read plus
// bytes written. `stream`: stores that bypass the caches.
double ReadBandwidth();
double CopyBandwidth(bool stream);
double WriteBandwidth(bool stream);

// A square product as large as the library needs to reach its best rate, the
// peak that a training step's products are a share of, GFLOP/s.
double MatMulGflops(DType dtype);

}  // namespace carry
