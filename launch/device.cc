#include "launch/device.h"

#include <unistd.h>

#include <algorithm>
#include <map>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "framework/device.h"
#include "kernels/cuda/runtime.h"
#include "launch/machine.h"
#include "parallel/mesh.h"

namespace carry {
namespace {

using DeviceKind = config::Recipe::Device;

std::string why_no_gpu;

// What one rank found; all ranks look at those of all.
struct Found {
  std::string error;  // why there is no GPU
  std::string place;  // host and bus: which GPU it is
  std::string model;

  std::string ToText() const {
    return absl::StrCat(error, "\n", place, "\n", model);
  }
  static Found FromText(const std::string& text) {
    const std::vector<std::string> lines = absl::StrSplit(text, '\n');
    Found found;
    if (lines.size() == 3) {
      found.error = lines[0];
      found.place = lines[1];
      found.model = lines[2];
    }
    return found;
  }
};

std::string HostName() {
  char name[256] = "";
  gethostname(name, sizeof(name) - 1);
  return name;
}

Found Look(int local_rank, int* index) {
  Found found;
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

// What is wrong with the ranks' GPUs; the same on all.
absl::Status CheckFound(const std::vector<Found>& all, DeviceKind wanted) {
  const auto without =
      std::find_if(all.begin(), all.end(),
                   [](const Found& found) { return !found.error.empty(); });
  if (without != all.end()) {
    const auto rank = without - all.begin();
    const bool some = std::any_of(
        all.begin(), all.end(), [](const Found& f) { return f.error.empty(); });
    if (!some && wanted == config::Recipe::AUTO) return absl::OkStatus();
    return absl::FailedPreconditionError(absl::StrCat(
        all.size() == 1 ? "" : absl::StrCat("rank ", rank, ": "),
        without->error,
        some ? "; other ranks have a GPU: start all ranks on machines that "
               "have, or set device: CPU"
             : ""));
  }
  std::map<std::string, size_t> taken;
  for (size_t r = 0; r < all.size(); ++r) {
    const auto [other, first] = taken.emplace(all[r].place, r);
    if (!first) {
      return absl::FailedPreconditionError(absl::StrCat(
          "ranks ", other->second, " and ", r, " would share ", all[r].place,
          "; start no more ranks on a machine than it has GPUs (mpirun "
          "--map-by "
          "ppr:N:node) or set device: CPU"));
    }
    if (all[r].model != all[0].model) {
      return absl::FailedPreconditionError(
          absl::StrCat("rank 0 has a GPU of model ", all[0].model, ", rank ", r,
                       " one of ", all[r].model,
                       "; choose machines of one model, or GPUs of one with "
                       "CUDA_VISIBLE_DEVICES"));
    }
  }
  return absl::OkStatus();
}

absl::Status Open(const std::vector<Found>& all, int index,
                  config::Recipe* recipe) {
  absl::Status status = CheckFound(all, recipe->device());
  if (!status.ok()) return status;
  why_no_gpu = all[0].error;
  if (!why_no_gpu.empty()) {
    recipe->set_device(config::Recipe::CPU);
    SetDefaultDevice(Device::kCpu);
    return absl::OkStatus();
  }
  recipe->set_device(config::Recipe::CUDA);
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
  const Found found = Look(0, &index);
  return Open({found}, index, recipe);
}

absl::Status OpenDevice(const MpiWorld& world, config::Recipe* recipe) {
  if (recipe->device() == config::Recipe::CPU) {
    SetDefaultDevice(Device::kCpu);
    return absl::OkStatus();
  }
  int index = 0;
  const Found mine = Look(world.local_rank, &index);
  const absl::StatusOr<std::vector<std::string>> texts =
      GatherStrings(*world.world, "search for GPUs", mine.ToText());
  if (!texts.ok()) return texts.status();
  std::vector<Found> all;
  for (const std::string& text : *texts) all.push_back(Found::FromText(text));
  return Open(all, index, recipe);
}

absl::Status OpenDevice(const std::string& name) {
  config::Recipe recipe;
  recipe.set_device(name == "CPU"    ? config::Recipe::CPU
                    : name == "CUDA" ? config::Recipe::CUDA
                                     : config::Recipe::AUTO);
  return OpenDevice(&recipe);
}

const std::string& WhyNoGpu() { return why_no_gpu; }

std::string DescribeDevice(int ranks_here) {
  if (DefaultDevice() == Device::kCpu) return DescribeMachine(ranks_here);
  return BackendOf(DefaultDevice()).Describe();
}

}  // namespace carry
