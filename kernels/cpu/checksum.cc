#include "kernels/checksum.h"

#include <atomic>
#include <cstring>

#include "kernels/parallel_for.h"

namespace carry {
namespace {

uint64_t Mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

uint64_t Checksum(const float* data, int64_t floats, uint64_t seed) {
  std::atomic<uint64_t> total{0};
  ParallelRanges(floats, [&](int64_t begin, int64_t end, int) {
    uint64_t sum = 0;
    for (int64_t i = begin; i < end; ++i) {
      uint32_t bits;
      std::memcpy(&bits, data + i, sizeof(bits));
      const uint64_t place = static_cast<uint64_t>(i) + 1;
      sum += Mix(Mix(seed + place * 0x9e3779b97f4a7c15u) + bits);
    }
    total += sum;
  });
  return total;
}

}  // namespace carry
