#include "launch/device.h"

#include <unistd.h>

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/device.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime.h"
#include "launch/found_device.h"
#include "launch/machine.h"
#include "parallel/mesh.h"

namespace carry {
namespace {

std::string why_no_gpu;

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

FoundDevice Look(int local_rank, int* index) {
  FoundDevice found;
  const absl::StatusOr<int> count = cuda::CountDevices();
  if (!count.ok()) {
    found.error = std::string(count.status().message());
    return found;
  }
  *index = local_rank % *count;
  const absl::StatusOr<cuda::DeviceProperties> device = cuda::UseDevice(*index);
  if (!device.ok()) {
    found.error = std::string(device.status().message());
    return found;
  }
  found.place = absl::StrCat("GPU ", device->bus, " of ", HostName());
  found.model = device->name;
  return found;
}

absl::Status Open(const std::vector<FoundDevice>& all, int index,
                  config::Recipe* recipe) {
  absl::Status status = CheckDevices(all, recipe->device());
  if (!status.ok()) return status;
  why_no_gpu = all[0].error;
  if (!why_no_gpu.empty()) {
    recipe->set_device(config::Recipe::CPU);
    SetDefaultDevice(Device::kCpu);
    return absl::OkStatus();
  }
  recipe->set_device(config::Recipe::CUDA);
  // Commands that load a model have no recipe to train by.
  if (recipe->has_training()) status = CheckBatchForGpu(*recipe);
  if (!status.ok()) return status;
  CudaOptions options;
  options.index = index;
  options.tf32 = recipe->training().tf32();
  return UseCuda(options);
}

}  // namespace

absl::Status OpenDevice(config::Recipe* recipe) {
  if (recipe->device() == config::Recipe::CPU) {
    SetDefaultDevice(Device::kCpu);
    return absl::OkStatus();
  }
  int index = 0;
  const FoundDevice found = Look(0, &index);
  return Open({found}, index, recipe);
}

absl::Status OpenDevice(const MpiWorld& world, config::Recipe* recipe) {
  if (recipe->device() == config::Recipe::CPU) {
    SetDefaultDevice(Device::kCpu);
    return absl::OkStatus();
  }
  int index = 0;
  const FoundDevice mine = Look(world.local_rank, &index);
  const absl::StatusOr<std::vector<std::string>> texts =
      GatherStrings(*world.world, "search for GPUs", mine.ToText());
  if (!texts.ok()) return texts.status();
  std::vector<FoundDevice> all;
  for (const std::string& text : *texts)
    all.push_back(FoundDevice::FromText(text));
  return Open(all, index, recipe);
}

absl::Status OpenDevice(const std::string& name) {
  config::Recipe recipe;
  recipe.set_device(name == "CPU"    ? config::Recipe::CPU
                    : name == "CUDA" ? config::Recipe::CUDA
                                     : config::Recipe::AUTO);
  return OpenDevice(&recipe);
}

std::string DescribeDevice(int ranks_here) {
  if (DefaultDevice() == Device::kCpu) {
    return absl::StrCat(
        DescribeMachine(ranks_here),
        why_no_gpu.empty() ? "" : "; no GPU: " + WithoutAdvice(why_no_gpu));
  }
  return cuda::Describe(BackendOf(Device::kCuda));
}

}  // namespace carry
