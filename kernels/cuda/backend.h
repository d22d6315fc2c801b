// Arithmetic on one GPU.
//
// All work goes into one stream in the order of the calls. Without nvcc,
// backend_stub.cc takes the place of backend.cc and says which build option is
// missing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

struct BackendOptions {
  int index = 0;
  bool tf32 = false;
  // Counted device memory: for kernels while they run, or `lasting` copies of
  // weights.
  std::function<std::shared_ptr<void>(int64_t bytes, bool lasting)> allocate;
};

// Makes GPU `index` this thread's and loads cuBLAS.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendOptions options);

// Of a backend that MakeBackend made: its stream; "GPU 0 (NVIDIA H100 80GB
// HBM3, sm_90, 132 multiprocessors)".
Stream StreamOf(const Backend& backend);
std::string Describe(const Backend& backend);

}  // namespace carry::cuda
