// The checksum against its definition, for every backend.
#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/case_util.h"

namespace carry::testing {

inline uint64_t MixOfChecksum(uint64_t x) {
  x ^= x >> 30, x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27, x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

inline void ExpectChecksums(
    const std::function<uint64_t(const std::vector<float>& x, uint64_t seed)>&
        checksum) {
  const uint64_t seed = 0x123456789abcdefu;
  for (int64_t n : {1, 31, 256, 5000, 600000}) {
    Random random(2);
    std::vector<float> x = Floats(random.Vector(n, -1, 1));
    uint64_t want = 0;
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits = 0;
      std::memcpy(&bits, &x[i], sizeof(bits));
      const uint64_t place = static_cast<uint64_t>(i) + 1;
      want += MixOfChecksum(MixOfChecksum(seed + place * 0x9e3779b97f4a7c15u) +
                            bits);
    }
    EXPECT_EQ(checksum(x, seed), want);
    std::swap(x[0], x[n - 1]);
    EXPECT_EQ(checksum(x, seed) == want, n == 1);
  }
}

}  // namespace carry::testing
