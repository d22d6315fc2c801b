// Stands in for backend.cc where there is no nvcc.
#include "kernels/check.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"

namespace carry::cuda {

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendOptions) {
  return CountDevices().status();
}

Stream StreamOf(const Backend&) {
  CARRY_CHECK(false && "there is no backend to have a stream");
  return nullptr;
}

std::string Describe(const Backend&) {
  CARRY_CHECK(false && "there is no backend to describe");
  return "";
}

}  // namespace carry::cuda
