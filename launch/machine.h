// What this machine has, and what it can do, measured when asked.
#pragma once

#include <string>

#include "kernels/types.h"

namespace carry {

// FLOP/s of matrix products of this dtype on NumThreads() threads, best of a
// fifth of a second: what a training step's own products are held against.
double MeasureMatMulPeak(DType dtype);

// "2 threads on 2 of 2 cores (Intel Xeon ...), AVX3, huge pages": what decides
// the speed here and can be set wrong. `ranks_here`: processes of this run on
// this machine; says so if what they are bound to leaves cores idle.
std::string DescribeMachine(int ranks_here = 1);

}  // namespace carry
