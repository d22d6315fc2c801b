#include "launch/device.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/device.h"
#include "framework/memory.h"
#include "framework/tensor.h"
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
  status = CheckBatchForGpu(*recipe);
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
  return BackendOf(DefaultDevice()).Describe();
}

double MeasureProductPeak(DType dtype) {
  if (DefaultDevice() == Device::kCpu) return MeasureMatMulPeak(dtype);
  using Clock = std::chrono::steady_clock;
  constexpr double kEnough = 2e-3;
  double best = 0;
  // Larger until one takes long enough to fill the device.
  for (int64_t n = 512; n <= 8192; n *= 2) {
    const Tensor a = Tensor::Zeros({n, n}, dtype);
    const Tensor c = Tensor::Empty({n, n}, DType::kF32);
    double seconds = 1e30;
    for (int run = 0; run < 3; ++run) {
      if (!a.backend().Synchronize().ok()) return best;
      const Clock::time_point begin = Clock::now();
      a.backend().MatMul(a.view(), false, a.view(), true, c.view(),
                         Write::kOverwrite);
      if (!a.backend().Synchronize().ok()) return best;
      seconds = std::min(
          seconds, std::chrono::duration<double>(Clock::now() - begin).count());
    }
    best = std::max(best, 2.0 * static_cast<double>(n * n * n) / seconds);
    if (seconds > kEnough) break;
  }
  TrimMemoryCache();
  ResetMemoryPeaks();
  return best;
}

}  // namespace carry
