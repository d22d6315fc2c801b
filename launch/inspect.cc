// `carry inspect`: what a recipe, checkpoint, run, model folder, token file or
// safetensors file holds.
#include <algorithm>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "framework/data/token_file.h"
#include "framework/io/checkpoint_folder.h"
#include "framework/io/file.h"
#include "framework/io/hf_config.h"
#include "framework/io/safetensors.h"
#include "framework/memory.h"
#include "framework/train/memory_plan.h"
#include "launch/command.h"
#include "launch/cost.h"
#include "launch/human.h"
#include "launch/recipe.h"

namespace carry {
namespace {

absl::Status InspectRecipe(const RecipeOptions& options) {
  absl::StatusOr<config::Recipe> recipe =
      LoadRecipe(options.path, options.sets);
  if (!recipe.ok()) return recipe.status();
  std::cout << DescribeRecipe(*recipe);
  if (recipe->model().vocab_size() > 0) {
    const RecipeCost cost = CostOf(*recipe);
    std::cout << "cost        " << Human(cost.forward_flops)
              << " FLOP of matrix products a token forward, "
              << Human(cost.step_flops) << " a step; carry "
              << FormatBytes(cost.carry_bytes) << " a sequence\n"
              << "memory      " << PlanTrainingMemory(*recipe).ToString()
              << "\n";
  }
  std::cout << "\n" << RecipeText(*recipe);
  return absl::OkStatus();
}

void PrintTensor(const TensorView& tensor) {
  std::cout << absl::StreamFormat(
      "  %-5s %-16s %s\n", Name(tensor.dtype),
      absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]"), tensor.name);
}

absl::Status InspectSafetensors(const std::string& path) {
  absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(path);
  if (!file.ok()) return file.status();
  int64_t bytes = 0, elements = 0;
  for (const TensorView& tensor : file->tensors()) {
    bytes += tensor.bytes;
    elements += tensor.elements();
  }
  std::cout << "file        " << path << "\n"
            << "tensors     " << file->tensors().size() << ", "
            << Human(static_cast<double>(elements)) << " elements, "
            << FormatBytes(bytes) << "\n";
  for (const auto& [key, value] : file->metadata()) {
    std::cout << "metadata    " << key << ": " << value << "\n";
  }
  for (const TensorView& tensor : file->tensors()) PrintTensor(tensor);
  return absl::OkStatus();
}

absl::Status InspectTokenFile(const std::string& path) {
  absl::StatusOr<TokenFile> file = TokenFile::Open(path);
  if (!file.ok()) return file.status();
  const TokenFileView& view = file->view();
  int64_t longest = 0;
  for (int64_t i = 0; i < view.num_documents; ++i) {
    longest = std::max(
        longest, static_cast<int64_t>(view.offsets[i + 1] - view.offsets[i]));
  }
  std::cout << "token file  " << path << ", whole\n"
            << "documents   " << view.num_documents << ", the longest of "
            << longest << " tokens\n"
            << "tokens      " << view.num_tokens << " of "
            << view.bytes_per_token << " bytes, ids below " << view.vocab_size
            << "\n"
            << "tokenizer   " << view.tokenizer_fingerprint << "\n"
            << "checksum    " << view.checksum << "\n";
  return absl::OkStatus();
}

absl::Status InspectModelFolder(const std::string& path) {
  absl::StatusOr<config::Model> model = ReadHfConfig(path + "/config.json");
  if (!model.ok()) return model.status();
  absl::StatusOr<SafetensorsFolder> weights = SafetensorsFolder::Open(path);
  if (!weights.ok()) return weights.status();
  std::cout << "model       " << DescribeModel(*model) << "\n";
  for (const std::string& name : weights->Names()) {
    PrintTensor(*weights->Find(name));
  }
  return absl::OkStatus();
}

absl::Status InspectCheckpoint(const std::string& path) {
  absl::StatusOr<CheckpointManifest> manifest = VerifyCheckpoint(path);
  if (!manifest.ok()) return manifest.status();
  std::cout << "checkpoint  " << path << ", after step " << manifest->step
            << ", written by " << manifest->program << "; whole\n";
  for (const CheckpointFile& file : manifest->files) {
    std::cout << absl::StreamFormat("  %10s  %s  %s\n", FormatBytes(file.size),
                                    file.checksum, file.name);
  }
  if (!PathExists(path + "/config.json")) return absl::OkStatus();
  return InspectModelFolder(path);
}

absl::Status InspectRun(const std::string& path) {
  const std::string checkpoints = path + "/checkpoints";
  absl::StatusOr<std::vector<int64_t>> steps = ListCheckpoints(checkpoints);
  if (!steps.ok()) return steps.status();
  absl::StatusOr<FoundCheckpoint> newest = FindNewestCheckpoint(checkpoints);
  if (!newest.ok()) return newest.status();
  std::cout << "run         " << path << ", checkpoints after steps "
            << absl::StrJoin(*steps, ", ") << "\n";
  for (const std::string& skipped : newest->skipped) {
    std::cout << "damaged     " << skipped << "\n";
  }
  return InspectCheckpoint(newest->path);
}

absl::Status Inspect(const RecipeOptions& options) {
  const std::string& path = options.path;
  if (IsDirectory(path)) {
    if (PathExists(path + "/manifest.json")) return InspectCheckpoint(path);
    if (IsDirectory(path + "/checkpoints")) return InspectRun(path);
    if (PathExists(path + "/config.json")) return InspectModelFolder(path);
    return absl::InvalidArgumentError(
        absl::StrCat(path,
                     " is neither a checkpoint (manifest.json), a run's folder "
                     "(checkpoints/) nor a model's (config.json)"));
  }
  if (IsTokenFile(path)) return InspectTokenFile(path);
  if (absl::EndsWith(path, ".safetensors")) return InspectSafetensors(path);
  return InspectRecipe(options);
}

}  // namespace

Command AddInspect(CLI::App& program) {
  auto options = std::make_shared<RecipeOptions>();
  CLI::App* app = program.add_subcommand(
      "inspect",
      "Show what a file or folder holds, and whether it is whole: a recipe "
      "with all its defaults and its cost, a checkpoint, a run, a model, a "
      "token file, a safetensors file");
  app->add_option("PATH", options->path, "What to look at")->required();
  AddSetOption(*app, &options->sets);
  app->footer(
      "Example:\n"
      "  carry inspect recipes/quickstart.textproto "
      "--set training.steps=100\n"
      "  carry inspect runs/quickstart");
  return {app, [options] { return Inspect(*options); }};
}

}  // namespace carry
