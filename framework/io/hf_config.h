// config.json of Hugging Face's MambaForCausalLM, and of mamba-ssm, as a model
// of a recipe. The fields are listed in README.md.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "recipes/schema/model.pb.h"

namespace carry {

// Reads the text of a config.json; `path` is for messages. All fields of the
// result that bear on a model's function are set. Refused: another
// architecture (kUnimplemented, by name) or a variant that Carry's mixer does
// not compute, missing or impossible sizes, sizes that contradict each other.
// What bears on neither function nor initialisation is passed over.
absl::StatusOr<config::Model> ParseHfConfig(absl::string_view text,
                                            const std::string& path);

absl::StatusOr<config::Model> ReadHfConfig(const std::string& path);

// The text of a config.json that transformers loads. REQUIRES: a resolved
// model with a mamba mixer.
std::string HfConfigText(const config::Model& model);

}  // namespace carry
