#include <map>

#include "tests/host_cuda/shim/cuda_runtime.h"

namespace host_cuda {

size_t& SharedLimit(const void* kernel) {
  static thread_local std::map<const void*, size_t> limits;
  return limits.try_emplace(kernel, kSharedByDefault).first->second;
}

bool CanLaunch(const cudaLaunchConfig_t& config, const void* kernel) {
  const dim3 &grid = config.gridDim, &block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  return grid.x >= 1 && grid.x <= 0x7fffffffu && grid.y >= 1 &&
         grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535 && threads >= 1 &&
         threads <= 1024 && threads % 32 == 0 &&
         config.dynamicSmemBytes <= SharedLimit(kernel);
}

}  // namespace host_cuda
