#include "kernels/parallel_for.h"

#include <thread>

#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

TEST(ParallelFor, CallsEveryTaskOnce) {
  for (int threads : {1, 2, 5}) {
    const testing::WithThreads with(threads);
    for (int64_t tasks : {0, 1, 2, 7, 100}) {
      std::vector<int> calls(tasks);
      ParallelFor(tasks, [&](int64_t i) { ++calls[i]; });
      EXPECT_EQ(calls, std::vector<int>(tasks, 1));
    }
  }
}

TEST(ParallelRanges, RangesAreContiguousAndInOrder) {
  const testing::WithThreads with(3);
  std::vector<std::pair<int64_t, int64_t>> ranges(3);
  ParallelRanges(10, [&](int64_t begin, int64_t end, int thread) {
    ranges[thread] = {begin, end};
  });
  EXPECT_EQ(ranges[0].first, 0);
  EXPECT_EQ(ranges[0].second, ranges[1].first);
  EXPECT_EQ(ranges[1].second, ranges[2].first);
  EXPECT_EQ(ranges[2].second, 10);
}

TEST(NumThreads, IsEachThreadsOwn) {
  const testing::WithThreads with(3);
  int other = 0;
  std::thread([&] {
    SetNumThreads(1);
    other = NumThreads();
  }).join();
  EXPECT_EQ(other, 1);
  EXPECT_EQ(NumThreads(), 3);
}

}  // namespace
}  // namespace carry
