// What this machine can do, measured when asked.
#pragma once

#include "kernels/types.h"

namespace carry {

// FLOP/s of matrix products of this dtype on NumThreads() threads, best of a
// fifth of a second: what a training step's own products are held against.
double MeasureMatMulPeak(DType dtype);

}  // namespace carry
