// Counter-based random numbers: a pure function of (seed, stream, index), so
// that a value does not depend on rank, thread or order of evaluation.
//
// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011): counter = (index, stream), key = seed.
//
// A stream is one use of randomness, for instance one parameter's initial
// values: StreamOf("backbone.embeddings.weight"). All functions are pure and
// safe to call from any thread.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace carry {

struct PhiloxBlock {
  uint32_t word[4];
};

// The 128 random bits at (seed, stream, index).
inline PhiloxBlock Philox(uint64_t seed, uint64_t stream, uint64_t index) {
  uint32_t c0 = static_cast<uint32_t>(index);
  uint32_t c1 = static_cast<uint32_t>(index >> 32);
  uint32_t c2 = static_cast<uint32_t>(stream);
  uint32_t c3 = static_cast<uint32_t>(stream >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed);
  uint32_t k1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c0;
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// 64 random bits.
inline uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t index) {
  const PhiloxBlock b = Philox(seed, stream, index);
  return (uint64_t{b.word[1]} << 32) | b.word[0];
}

// Uniform in [0, 1), a multiple of 2^-53.
inline double Uniform(uint64_t seed, uint64_t stream, uint64_t index) {
  return static_cast<double>(RandomBits(seed, stream, index) >> 11) * 0x1p-53;
}

// Uniform in [0, bound) for bound > 0. The bias, below bound / 2^64, is far
// under what any run could see.
inline uint64_t UniformBelow(uint64_t bound, uint64_t seed, uint64_t stream,
                             uint64_t index) {
  __extension__ using uint128 = unsigned __int128;
  return static_cast<uint64_t>(
      (uint128{RandomBits(seed, stream, index)} * bound) >> 64);
}

// Standard normal by Box and Muller from the two halves of one block:
// sqrt(-2 ln u) cos(2 pi v), u in (0, 1], v in [0, 1).
inline float Normal(uint64_t seed, uint64_t stream, uint64_t index) {
  const PhiloxBlock b = Philox(seed, stream, index);
  const uint64_t low = (uint64_t{b.word[1]} << 32) | b.word[0];
  const uint64_t high = (uint64_t{b.word[3]} << 32) | b.word[2];
  const double u = (static_cast<double>(low >> 11) + 1.0) * 0x1p-53;
  const double v = static_cast<double>(high >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2.0 * std::log(u)) *
                            std::cos(6.283185307179586476925286766559 * v));
}

// The stream of a name: 64-bit FNV-1a. Equal names give equal streams on every
// machine and in every version.
constexpr uint64_t StreamOf(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  return hash;
}

}  // namespace carry
