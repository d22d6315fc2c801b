// Denormals are treated as zero while this lives: a decayed state would
// otherwise cost a hundred cycles an operation. Restores what was set before.
#pragma once

#include <cstdint>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace carry {

class FlushDenormals {
 public:
  FlushDenormals() : saved_(Get()) { Set(saved_ | kBits); }
  ~FlushDenormals() { Set(saved_); }
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__SSE__)
  static constexpr uint64_t kBits = 0x8040;  // MXCSR: FTZ, DAZ
  static uint64_t Get() { return _mm_getcsr(); }
  static void Set(uint64_t x) { _mm_setcsr(static_cast<uint32_t>(x)); }
#elif defined(__aarch64__)
  static constexpr uint64_t kBits = 1ull << 24;  // FPCR: FZ
  static uint64_t Get() {
    uint64_t x;
    asm volatile("mrs %0, fpcr" : "=r"(x));
    return x;
  }
  static void Set(uint64_t x) { asm volatile("msr fpcr, %0" : : "r"(x)); }
#else
  static constexpr uint64_t kBits = 0;
  static uint64_t Get() { return 0; }
  static void Set(uint64_t) {}
#endif
  uint64_t saved_;
};

}  // namespace carry
