// Aligned working memory that a thread keeps from call to call, so that no
// kernel pays for page faults twice. Grows, never shrinks.
#pragma once

#include <cstdint>

namespace carry {

// kCall: what one kernel call shares among its threads, taken by the caller.
// kWorker: what each thread needs for itself. Kernels do not nest, so that one
// of each is enough; a second Scratch of the same slot invalidates the first.
enum class ScratchSlot { kCall, kWorker };

class Scratch {
 public:
  Scratch(ScratchSlot slot, int64_t floats);

  // The next n floats, 64-byte aligned. The sum of the requests, each rounded
  // up to 16, must not exceed `floats`.
  float* Take(int64_t n);

  // What Take(n) uses up.
  static constexpr int64_t Rounded(int64_t n) { return (n + 15) / 16 * 16; }

 private:
  float* next_;
  float* end_;
};

}  // namespace carry
