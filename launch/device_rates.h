// What the default device can do at best, measured when asked. On a GPU the
// memory that this takes stays in its cache.
#pragma once

#include "kernels/types.h"

namespace carry {

// FLOP/s of matrix products of this dtype.
double MeasureProductPeak(DType dtype);

// Bytes a second, read and written, of a copy within a GPU's memory.
double MeasureDeviceCopy();

}  // namespace carry
