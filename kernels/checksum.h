// A checksum of floats for what travels between ranks or is compared by them.
//
//   sum_i mix(mix(seed + (i + 1) g) + bits_i)  mod 2^64,   g =
//   0x9e3779b97f4a7c15
//
// with mix the finaliser of SplitMix64 (Steele, Lea, Flood 2014; variant 13), a
// bijection. So one changed float always changes the checksum, and two that
// changed places, or whatever else, leave it with probability 2^-64. It depends
// neither on the order of the sum nor on the machine: parts may be summed in
// any order, on any number of threads.
#pragma once

#include <cstdint>

namespace carry {

uint64_t Checksum(const float* data, int64_t floats, uint64_t seed);

}  // namespace carry
