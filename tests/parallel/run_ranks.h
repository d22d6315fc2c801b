// Ranks as threads, each with a communicator.
#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "kernels/parallel_for.h"
#include "parallel/thread_communicator.h"

namespace carry {

// Calls body(communicator) on `size` threads and waits for all.
inline void RunRanks(
    int size, const std::function<void(std::unique_ptr<Communicator>)>& body,
    double timeout_seconds = 60) {
  auto ranks = MakeThreadCommunicators(size, timeout_seconds);
  std::vector<std::thread> threads;
  for (auto& rank : ranks) {
    threads.emplace_back([&body, &rank] {
      SetNumThreads(1);
      body(std::move(rank));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace carry
