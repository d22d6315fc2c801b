// The devices of this process and the backend of each.
//
// A process computes on one device: new tensors are on the default device
// unless they say otherwise, and an op runs where its inputs are.
//
// Thread safety: UseCuda and SetDefaultDevice before any tensor is used by
// another thread; the rest at any time.
#pragma once

#include "absl/status/status.h"
#include "kernels/backend.h"

namespace carry {

Device DefaultDevice();
void SetDefaultDevice(Device device);

// REQUIRES UseCuda to have succeeded for Device::kCuda.
Backend& BackendOf(Device device);

struct CudaOptions {
  int index = 0;
  bool tf32 = false;  // fp32 products may round their inputs to TF32
};
// Opens a GPU and makes it the default device. Errors: no GPU, no driver, a
// GPU that this program has no code for, libraries that are missing.
absl::Status UseCuda(const CudaOptions& options);

}  // namespace carry
