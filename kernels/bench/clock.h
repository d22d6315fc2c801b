// Time as the benchmarks take it.
#pragma once

#include <time.h>

#include "kernels/parallel_for.h"

namespace carry {

// Seconds since some moment: on the wall, or, where the kernels use one thread,
// that this thread has run, so that time slices that others on the machine get
// do not count.
inline double BenchSeconds() {
  timespec now;
  clock_gettime(NumThreads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC,
                &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * now.tv_nsec;
}

}  // namespace carry
