// `carry generate`: text from a model, in constant time and memory a token.
#include "framework/train/generate.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "framework/io/file.h"
#include "launch/command.h"
#include "launch/model.h"

namespace carry {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt = "\n";
  std::string prompt_file;
  int64_t tokens = 256;
  SamplingOptions sampling;
};

absl::Status Generate(const GenerateOptions& options) {
  absl::Status status = CheckSampling(options.sampling);
  if (!status.ok()) return status;
  absl::StatusOr<OpenedModel> model = OpenModel(options.model);
  if (!model.ok()) return model.status();
  std::string prompt = options.prompt;
  if (!options.prompt_file.empty()) {
    absl::StatusOr<std::string> file = ReadFile(options.prompt_file);
    if (!file.ok()) return file.status();
    prompt = *std::move(file);
  }
  absl::StatusOr<std::vector<int32_t>> ids = model->tokenizer->Encode(prompt);
  if (!ids.ok()) return ids.status();
  if (ids->empty()) {
    return absl::InvalidArgumentError(
        "the prompt is empty; leave it out to begin with a new line");
  }

  // Ids that pad the vocabulary stand for nothing.
  const int64_t vocab = model->tokenizer->vocab_size();
  Generator generator(*model->loaded.model);
  status = generator.Read(ids->data(), static_cast<int64_t>(ids->size()),
                          options.model.chunk_length);
  const std::unique_ptr<StreamDecoder> decoder =
      model->tokenizer->NewStreamDecoder();
  for (int64_t i = 0; i < options.tokens; ++i) {
    if (!status.ok()) return status;
    const float* logits = generator.logits();
    if (!std::all_of(logits, logits + vocab,
                     [](float x) { return std::isfinite(x); })) {
      return absl::DataLossError(
          absl::StrCat("the model's output after ", generator.position(),
                       " tokens is not finite; its weights are damaged"));
    }
    const int32_t id = Sample(logits, vocab, options.sampling,
                              static_cast<uint64_t>(generator.position()));
    std::cout << decoder->Push(id) << std::flush;
    // The far end has closed; there is nobody to generate for.
    if (!std::cout) return absl::OkStatus();
    if (i + 1 < options.tokens) status = generator.Read(&id, 1, 1);
  }
  std::cout << decoder->Finish() << std::flush;
  return absl::OkStatus();
}

}  // namespace

Command AddGenerate(CLI::App& program) {
  auto options = std::make_shared<GenerateOptions>();
  CLI::App* app = program.add_subcommand(
      "generate",
      "Continue a prompt; what is generated goes to standard output as it "
      "comes");
  AddModelOptions(*app, &options->model);
  auto* prompt = app->add_option("--prompt", options->prompt,
                                 "Text to continue; default: a new line")
                     ->type_name("TEXT");
  app->add_option("--prompt-file", options->prompt_file,
                  "Continue the bytes of this file")
      ->type_name("FILE")
      ->excludes(prompt);
  app->add_option("--tokens", options->tokens, "How many; default 256")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--temperature", options->sampling.temperature,
                  "0: the likeliest token each time; default 1")
      ->type_name("X");
  app->add_option("--top-k", options->sampling.top_k,
                  "Choose among the k likeliest; default 0: all")
      ->type_name("K");
  app->add_option("--top-p", options->sampling.top_p,
                  "Choose among the likeliest that have this probability "
                  "together; default 1")
      ->type_name("P");
  app->add_option("--seed", options->sampling.seed,
                  "The same seed, the same text; default 0")
      ->type_name("N");
  app->footer(
      "Example:\n"
      "  carry generate runs/quickstart --prompt '#include <' --tokens 400 "
      "--temperature 0.8 --top-p 0.95");
  return {app, [options] { return Generate(*options); }};
}

}  // namespace carry
