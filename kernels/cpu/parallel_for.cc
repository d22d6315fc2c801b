#include "kernels/parallel_for.h"

#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "kernels/check.h"

#if defined(__SANITIZE_THREAD__)
#define CARRY_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CARRY_TSAN 1
#endif
#endif

namespace carry {
namespace {

thread_local int num_threads = 0;

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

}  // namespace

int NumThreads() {
  if (num_threads == 0) SetNumThreads(AvailableCores());
  return num_threads;
}

void SetNumThreads(int n) {
  CARRY_CHECK(n >= 1);
  num_threads = n;
  omp_set_num_threads(n);  // oneDNN follows it too.
}

void ParallelRanges(int64_t tasks,
                    const std::function<void(int64_t, int64_t, int)>& body) {
  const int64_t threads = std::min<int64_t>(NumThreads(), tasks);
  if (threads <= 0) return;
  if (threads == 1) return body(0, tasks, 0);
  const auto run = [&](int64_t t) {
    body(tasks * t / threads, tasks * (t + 1) / threads, static_cast<int>(t));
  };
#ifdef CARRY_TSAN
  // libgomp's barriers are invisible to the sanitizer.
  std::vector<std::thread> pool;
  for (int64_t t = 1; t < threads; ++t) pool.emplace_back(run, t);
  run(0);
  for (std::thread& thread : pool) thread.join();
#else
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int64_t t = 0; t < threads; ++t) run(t);
#endif
}

void ParallelFor(int64_t tasks, const std::function<void(int64_t)>& body) {
  ParallelRanges(tasks, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) body(i);
  });
}

}  // namespace carry
