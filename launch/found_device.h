// What ranks found when they looked for GPUs, and whether a run can be made of
// it.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// What one rank found; all ranks look at those of all.
struct FoundDevice {
  std::string error;  // why there is no GPU; empty where there is one
  std::string place;  // host and bus: which GPU it is
  std::string model;

  // For a message between ranks.
  std::string ToText() const;
  static FoundDevice FromText(const std::string& text);
};

// What is wrong with the GPUs of ranks 0, 1, ...; the same on all ranks.
// `wanted` is AUTO or CUDA. OK if no rank has a GPU and AUTO is wanted, or each
// has one of its own and all are of one model.
absl::Status CheckDevices(const std::vector<FoundDevice>& all,
                          config::Recipe::Device wanted);

// Whether the recipe's parts of a batch are of what a GPU's kernels take at
// once.
absl::Status CheckBatchForGpu(const config::Recipe& recipe);

// An error's text up to its advice: "looking for GPUs: cudaErrorNoDevice, no
// CUDA-capable device is detected".
std::string WithoutAdvice(const std::string& error);

}  // namespace carry
