// `carry eval`: loss of whole files, and how it falls with context.
#include <cmath>
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "framework/data/corpus.h"
#include "framework/data/files.h"
#include "framework/io/file.h"
#include "framework/train/evaluate.h"
#include "launch/command.h"
#include "launch/human.h"
#include "launch/model.h"

namespace carry {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::vector<std::string> paths;
  std::vector<std::string> extensions;
  int64_t max_tokens = 0;
  std::vector<int64_t> reset_every;
  std::string files_to;
};

absl::StatusOr<std::unique_ptr<const Corpus>> OpenCorpus(
    const EvalOptions& options, const OpenedModel& model) {
  if (!options.paths.empty()) {
    absl::StatusOr<std::vector<DataFile>> files =
        ExpandFiles(options.paths, options.extensions);
    if (!files.ok()) return files.status();
    return Corpus::Open(*files, *model.tokenizer);
  }
  if (!model.loaded.has_recipe) {
    return absl::InvalidArgumentError(
        absl::StrCat(model.loaded.path,
                     " has no recipe that names held-out files; name the files "
                     "to evaluate after it"));
  }
  absl::StatusOr<TrainingData> data = OpenHeldOutData(
      model.loaded.recipe.data(), model.loaded.recipe.training().seed());
  if (!data.ok()) return data.status();
  if (data->held_out == nullptr) {
    return absl::InvalidArgumentError(
        "the recipe holds nothing out; name the files to evaluate after the "
        "model");
  }
  return std::move(data->held_out);
}

// The paths that were read, each ended by a NUL, as `xargs -0` takes them.
absl::Status WriteFileList(const Corpus& corpus,
                           const std::vector<int64_t>& documents,
                           const std::string& path) {
  std::string list, last;
  for (int64_t i : documents) {
    if (corpus.DocumentPath(i) == last) continue;
    last = corpus.DocumentPath(i);
    absl::StrAppend(&list, last);
    list.push_back('\0');
  }
  return WriteFileAtomically(path, list);
}

void Print(const OpenedModel& model, const CorpusEval& eval) {
  const EvalResult& result = eval.result;
  const double loss = result.MeanNll();
  std::cout << "model       " << model.loaded.path << "\n"
            << "data        " << eval.documents << " documents, "
            << Human(static_cast<double>(result.tokens)) << " tokens, "
            << Human(static_cast<double>(eval.bytes)) << " bytes\n"
            << absl::StreamFormat("loss        %.4f nats a token\n", loss)
            << absl::StreamFormat("perplexity  %.3f\n", std::exp(loss))
            << absl::StreamFormat("bits/byte   %.4f\n\n", eval.BitsPerByte())
            << "tokens of context     predictions  loss    bits/token\n";
  for (const EvalResult::Bucket& bucket : result.by_position) {
    if (bucket.tokens == 0) continue;
    const double mean = bucket.nll / static_cast<double>(bucket.tokens);
    std::cout << absl::StreamFormat("%8d - %-10d %12d  %.4f  %.4f\n",
                                    bucket.begin, 2 * bucket.begin - 1,
                                    bucket.tokens, mean, mean / std::log(2.0));
  }
}

void PrintLoss(const std::string& what, const EvalResult& result) {
  const double mean = result.MeanNll();
  std::cout << absl::StreamFormat("%19s %14d  %.4f  %.4f\n", what,
                                  result.tokens, mean, mean / std::log(2.0));
}

// The same predictions with less and less context taken away.
absl::Status EvalWithResets(const std::vector<int64_t>& reset_every,
                            const EvalResult& whole, const OpenedModel& model,
                            const Corpus& corpus, CorpusEvalOptions options) {
  std::cout << "\ncarry reset every      predictions  loss    bits/token\n";
  for (int64_t tokens : reset_every) {
    options.reset_every = tokens;
    absl::StatusOr<CorpusEval> eval =
        EvaluateCorpus(*model.loaded.model, corpus, *model.tokenizer, options);
    if (!eval.ok()) return eval.status();
    PrintLoss(absl::StrCat(tokens, " tokens"), eval->result);
  }
  PrintLoss("never", whole);
  return absl::OkStatus();
}

absl::Status Eval(const EvalOptions& options) {
  absl::StatusOr<OpenedModel> model = OpenModel(options.model);
  if (!model.ok()) return model.status();
  absl::StatusOr<std::unique_ptr<const Corpus>> corpus =
      OpenCorpus(options, *model);
  if (!corpus.ok()) return corpus.status();
  CorpusEvalOptions how;
  how.max_tokens = options.max_tokens;
  how.chunk_length = options.model.chunk_length;
  absl::StatusOr<CorpusEval> eval =
      EvaluateCorpus(*model->loaded.model, **corpus, *model->tokenizer, how);
  if (!eval.ok()) return eval.status();
  Print(*model, *eval);
  if (!options.reset_every.empty()) {
    absl::Status status = EvalWithResets(options.reset_every, eval->result,
                                         *model, **corpus, how);
    if (!status.ok()) return status;
  }
  if (options.files_to.empty()) return absl::OkStatus();
  return WriteFileList(**corpus, eval->evaluated, options.files_to);
}

}  // namespace

Command AddEval(CLI::App& program) {
  auto options = std::make_shared<EvalOptions>();
  CLI::App* app = program.add_subcommand(
      "eval",
      "Loss, perplexity and bits a byte of whole files, each read from its "
      "start to its end with the carry kept");
  AddModelOptions(*app, &options->model);
  app->add_option("PATH", options->paths,
                  "Files, folders, globs or token files; default: what the "
                  "checkpoint's recipe holds out");
  app->add_option("--extensions", options->extensions,
                  "Endings that count in folders, such as .txt,.md; default: "
                  "all files")
      ->type_name("LIST")
      ->allow_extra_args(false)
      ->delimiter(',');
  app->add_option("--max-tokens", options->max_tokens,
                  "Stop after the document that reaches so many; default 0: "
                  "never")
      ->type_name("N")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--reset-every", options->reset_every,
                  "Also the loss of the same predictions with the carry reset "
                  "after every so many tokens: what longer context is worth")
      ->type_name("N,N,...")
      ->allow_extra_args(false)
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  app->add_option("--files-to", options->files_to,
                  "Write the paths that were read to this file, each ended by "
                  "a NUL")
      ->type_name("FILE");
  app->footer(
      "Example:\n"
      "  carry eval runs/quickstart /usr/include/stdio.h --reset-every 16,256");
  return {app, [options] { return Eval(*options); }};
}

}  // namespace carry
