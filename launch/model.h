// A trained model and its tokenizer, for `eval` and `generate`.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "framework/data/tokenizer.h"
#include "framework/train/trainer.h"
#include "launch/command.h"

namespace carry {

struct ModelOptions {
  std::string path;
  std::string tokenizer;  // A SentencePiece model; "": the checkpoint's own.
  bool bf16 = false;
  std::string device = "AUTO";
  int64_t chunk_length = 2048;
};
// Adds MODEL, --tokenizer, --bf16, --device, --chunk-length and --threads.
void AddModelOptions(CLI::App& app, ModelOptions* options);

struct OpenedModel {
  LoadedModel loaded;
  std::unique_ptr<Tokenizer> tokenizer;
};
// Opens the device too. An error where the tokenizer has more ids than the
// model.
absl::StatusOr<OpenedModel> OpenModel(const ModelOptions& options);

}  // namespace carry
