// A checksum of floats in a GPU's memory, for what travels between ranks or
// waits on a host.
//
//   sum_i mix(mix(seed + (i + 1) g) + bits_i)  mod 2^64,   g =
//   0x9e3779b97f4a7c15
//
// with mix the finaliser of SplitMix64 (Steele, Lea, Flood 2014; variant 13), a
// bijection. So one changed float always changes the checksum, and two that
// changed places, or whatever else, leave it with probability 2^-64. It does
// not depend on the order of the sum, nor on the machine.
#pragma once

#include <cstdint>

#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

// Elements of the workspace, which need not be initialised.
int64_t ChecksumWorkspace(int64_t floats);

// *out and the workspace are on the device.
LaunchStatus Checksum(const float* data, int64_t floats, uint64_t seed,
                      uint64_t* out, uint64_t* workspace, Stream stream);

}  // namespace carry::cuda
