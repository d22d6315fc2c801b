// Weights between a ParameterStore and safetensors with Hugging Face's names.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/io/safetensors.h"
#include "framework/nn/language_model.h"

namespace carry {

// Copies every parameter's values from the folder's tensors, converted to
// fp32. Also takes mamba-ssm's `backbone.embedding.weight` for the embedding,
// and `lm_head.weight` beside a tied head if it equals the embedding.
//
// An error names the tensor that is missing, has another shape, or is not a
// parameter of this model. Values are then unchanged or partly loaded.
absl::Status LoadWeights(const SafetensorsFolder& folder,
                         const std::string& path, LanguageModel& model);

// A dense tensor to write, on whatever device it is; `shape` may differ from
// the tensor's own. It must live until it is written.
TensorToWrite ToWrite(std::string name, Shape shape, const Tensor& tensor);

// The parameters as tensors to write; they point into the store.
std::vector<TensorToWrite> WeightsToWrite(const LanguageModel& model);

}  // namespace carry
