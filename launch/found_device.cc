#include "launch/found_device.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "framework/train/memory_plan.h"

namespace carry {
namespace {

absl::Status CheckNoneOrAll(const std::vector<FoundDevice>& all,
                            config::Recipe::Device wanted) {
  const auto without = std::find_if(
      all.begin(), all.end(),
      [](const FoundDevice& found) { return !found.error.empty(); });
  if (without == all.end()) return absl::OkStatus();
  const bool some =
      std::any_of(all.begin(), all.end(),
                  [](const FoundDevice& found) { return found.error.empty(); });
  if (!some && wanted == config::Recipe::AUTO) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      all.size() == 1 ? "" : absl::StrCat("rank ", without - all.begin(), ": "),
      without->error,
      some ? "; other ranks have a GPU: start all ranks on machines that have "
             "one, or set device: CPU"
           : ""));
}

}  // namespace

std::string FoundDevice::ToText() const {
  const auto line = [](const std::string& text) {
    return absl::StrReplaceAll(text, {{"\n", " "}});
  };
  return absl::StrCat(line(error), "\n", line(place), "\n", line(model));
}

FoundDevice FoundDevice::FromText(const std::string& text) {
  const std::vector<std::string> lines = absl::StrSplit(text, '\n');
  FoundDevice found;
  if (lines.size() == 3) {
    found.error = lines[0];
    found.place = lines[1];
    found.model = lines[2];
  }
  return found;
}

absl::Status CheckDevices(const std::vector<FoundDevice>& all,
                          config::Recipe::Device wanted) {
  absl::Status status = CheckNoneOrAll(all, wanted);
  if (!status.ok() || !all[0].error.empty()) return status;
  std::map<std::string, size_t> taken;
  for (size_t r = 0; r < all.size(); ++r) {
    const auto [other, first] = taken.emplace(all[r].place, r);
    if (!first) {
      return absl::FailedPreconditionError(absl::StrCat(
          "ranks ", other->second, " and ", r, " would share ", all[r].place,
          "; start no more ranks on a machine than it has GPUs (mpirun "
          "--map-by ppr:N:node) or set device: CPU"));
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

absl::Status CheckBatchForGpu(const config::Recipe& recipe) {
  // A sequence is a row of blocks, of which a grid has no more.
  constexpr int64_t kMost = 65535;
  const int64_t batch = StepCut(recipe).batch;
  if (batch <= kMost) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("a GPU computes at most ", kMost, " sequences at once, and ",
                   batch, " are wanted: lower training.micro_batch_size"));
}

std::string WithoutAdvice(const std::string& error) {
  return error.substr(0, error.find(';'));
}

}  // namespace carry
