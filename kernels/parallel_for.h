// Threads of the CPU kernels.
#pragma once

#include <cstdint>
#include <functional>

namespace carry {

// Threads that kernels called from this thread use; at least 1. The first call
// without a Set gives the cores this process may run on. Every rank that lives
// in a thread of its own has its own number.
int NumThreads();
void SetNumThreads(int n);

// Calls body(task) once for each task in [0, tasks), spread over NumThreads()
// threads in contiguous ranges that depend on (tasks, NumThreads()) alone.
// Returns when all are done. Not reentrant: a body must not call it.
// OpenMP; under ThreadSanitizer std::thread, which the sanitizer understands.
void ParallelFor(int64_t tasks, const std::function<void(int64_t)>& body);

// The same, but body(begin, end, thread) is called once a thread.
void ParallelRanges(
    int64_t tasks,
    const std::function<void(int64_t begin, int64_t end, int thread)>& body);

}  // namespace carry
