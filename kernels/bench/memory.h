// Memory of the benchmarks: zeros, in huge pages where the system grants them,
// each block's start staggered so that arrays do not share cache sets.
#pragma once

#include <sys/mman.h>

#include <cstdint>

#include "kernels/check.h"

namespace carry {

class BenchMemory {
 public:
  explicit BenchMemory(int64_t floats) : bytes_(floats * 4 + kHuge) {
    void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CARRY_CHECK(p != MAP_FAILED);
    base_ = static_cast<char*>(p);
    madvise(base_, bytes_, MADV_HUGEPAGE);
    static int64_t blocks = 0;
    data_ = reinterpret_cast<float*>(base_ + blocks++ % 31 * kStagger);
  }
  ~BenchMemory() { munmap(base_, bytes_); }
  BenchMemory(const BenchMemory&) = delete;
  BenchMemory& operator=(const BenchMemory&) = delete;

  float* data() const { return data_; }

 private:
  static constexpr int64_t kHuge = 2 << 20;
  static constexpr int64_t kStagger = 4096 + 5 * 64;

  int64_t bytes_;
  char* base_;
  float* data_;
};

}  // namespace carry
