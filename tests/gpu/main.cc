// Tests that run on whatever CUDA runtime they are given. With none: one line
// that says why, and exit status 77.
#include <cuda_runtime.h>

#include <cstdio>

#include "gtest/gtest.h"
#include "tests/host_cuda/device_memory.h"

namespace carry::testing {

// The device has its own order.
void ForEachOrder(const std::function<void()>& body) { body(); }

}  // namespace carry::testing

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  int devices = 0;  // Not written on error.
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::printf("SKIPPED: no CUDA device (%s)\n", cudaGetErrorString(error));
    return 77;
  }
  return RUN_ALL_TESTS();
}
