#include "framework/device.h"

#include <atomic>
#include <memory>
#include <utility>

#include "framework/memory.h"
#include "kernels/check.h"
#include "kernels/cuda/backend.h"

namespace carry {
namespace {

std::atomic<Device> default_device{Device::kCpu};
Backend* cuda_backend = nullptr;  // Outlives every static tensor.

}  // namespace

Device DefaultDevice() { return default_device; }

void SetDefaultDevice(Device device) {
  CARRY_CHECK(device == Device::kCpu || cuda_backend != nullptr);
  default_device = device;
}

Backend& BackendOf(Device device) {
  if (device == Device::kCpu) return CpuBackend();
  CARRY_CHECK(cuda_backend != nullptr);
  return *cuda_backend;
}

absl::Status UseCuda(const CudaOptions& options) {
  if (cuda_backend == nullptr) {
    cuda::BackendOptions backend_options;
    backend_options.index = options.index;
    backend_options.tf32 = options.tf32;
    backend_options.allocate = [](int64_t bytes, bool lasting) {
      return AllocateMemory(
          bytes, lasting ? MemoryPart::kParameters : MemoryPart::kActivations,
          Device::kCuda);
    };
    absl::StatusOr<std::unique_ptr<Backend>> made =
        cuda::MakeBackend(std::move(backend_options));
    if (!made.ok()) return made.status();
    cuda_backend = made->release();
  }
  default_device = Device::kCuda;
  return absl::OkStatus();
}

}  // namespace carry
