#include "launch/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "framework/io/file.h"
#include "launch/device.h"

namespace carry {
namespace {

absl::StatusOr<std::unique_ptr<Tokenizer>> TokenizerOf(
    const ModelOptions& options, const LoadedModel& loaded) {
  if (!options.tokenizer.empty()) return LoadSentencePiece(options.tokenizer);
  // A checkpoint has a copy of its own.
  const std::string copy = loaded.path + "/tokenizer.model";
  if (PathExists(copy)) return LoadSentencePiece(copy);
  if (loaded.has_recipe) return OpenTokenizer(loaded.recipe.data().tokenizer());
  if (loaded.model->config().vocab_size() != 256) {
    return absl::InvalidArgumentError(
        absl::StrCat(loaded.path, " has no tokenizer.model, and ",
                     loaded.model->config().vocab_size(),
                     " token ids are not bytes; name one with --tokenizer"));
  }
  return NewByteTokenizer();
}

}  // namespace

void AddModelOptions(CLI::App& app, ModelOptions* options) {
  app.add_option("MODEL", options->path,
                 "A checkpoint, a run's folder (its newest checkpoint), or a "
                 "folder that Hugging Face's MambaForCausalLM loads")
      ->required();
  app.add_option("--tokenizer", options->tokenizer,
                 "A SentencePiece model; default: the checkpoint's own")
      ->type_name("FILE");
  app.add_flag("--bf16", options->bf16,
               "Activations and matrix products in bf16; default: fp32");
  app.add_option("--device", options->device,
                 "CPU, CUDA (a GPU), or AUTO: a GPU where there is one; "
                 "default AUTO")
      ->type_name("DEVICE")
      ->check(CLI::IsMember({"CPU", "CUDA", "AUTO"}));
  app.add_option("--chunk-length", options->chunk_length,
                 "Tokens to read at once; default 2048")
      ->type_name("N")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24));
  AddThreadsOption(app);
}

absl::StatusOr<OpenedModel> OpenModel(const ModelOptions& options) {
  absl::Status opened = OpenDevice(options.device);
  if (!opened.ok()) return opened;
  absl::StatusOr<LoadedModel> loaded =
      LoadModel(options.path, options.bf16 ? DType::kBF16 : DType::kF32);
  if (!loaded.ok()) return loaded.status();
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      TokenizerOf(options, *loaded);
  if (!tokenizer.ok()) return tokenizer.status();
  const int64_t ids = loaded->model->config().vocab_size();
  if ((*tokenizer)->vocab_size() > ids) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the tokenizer has ", (*tokenizer)->vocab_size(), " ids, but ",
        loaded->path, " has ", ids, "; name another with --tokenizer"));
  }
  return OpenedModel{*std::move(loaded), *std::move(tokenizer)};
}

}  // namespace carry
