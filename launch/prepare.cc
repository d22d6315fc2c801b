// `carry prepare`: files to token files.
#include <cstdint>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "framework/data/files.h"
#include "framework/data/token_file.h"
#include "framework/data/tokenizer.h"
#include "framework/io/file.h"
#include "kernels/parallel_for.h"
#include "launch/command.h"
#include "launch/human.h"

namespace carry {
namespace {

struct PrepareOptions {
  std::vector<std::string> paths;
  std::vector<std::string> extensions;
  std::string out;
  std::string held_out;
  double holdout_fraction = 0.05;
  uint64_t seed = 0;
  std::string tokenizer;
  std::string learn_tokenizer;
  SentencePieceOptions learn;
};

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeTokenizer(
    const PrepareOptions& options, const std::vector<DataFile>& files) {
  if (options.learn_tokenizer.empty()) {
    if (options.tokenizer.empty()) return NewByteTokenizer();
    return LoadSentencePiece(options.tokenizer);
  }
  std::vector<std::string> paths;
  paths.reserve(files.size());
  for (const DataFile& file : files) paths.push_back(file.path);
  SentencePieceOptions learn = options.learn;
  learn.seed = options.seed;
  learn.threads = NumThreads();
  std::cout << "learning " << learn.vocab_size << " pieces from "
            << paths.size() << " files" << std::endl;
  absl::Status status =
      TrainSentencePiece(paths, learn, options.learn_tokenizer);
  if (!status.ok()) return status;
  std::cout << "wrote " << options.learn_tokenizer << std::endl;
  return LoadSentencePiece(options.learn_tokenizer);
}

absl::Status WriteTokens(const std::vector<DataFile>& files,
                         const Tokenizer& tokenizer, const std::string& out) {
  absl::StatusOr<TokenFileWriter> writer = TokenFileWriter::Create(
      out, tokenizer.vocab_size(), tokenizer.fingerprint());
  if (!writer.ok()) return writer.status();
  int64_t bytes = 0;
  for (const DataFile& file : files) {
    if (IsTokenFile(file.path)) {
      return absl::InvalidArgumentError(absl::StrCat(
          file.path, " is a token file already; name files to make one of"));
    }
    absl::StatusOr<MappedFile> mapped = MappedFile::Open(file.path);
    if (!mapped.ok()) return mapped.status();
    if (tokenizer.text_only()) {
      absl::Status status = CheckIsText(mapped->bytes(), file.path);
      if (!status.ok()) return status;
    }
    absl::StatusOr<std::vector<int32_t>> ids =
        tokenizer.Encode(mapped->bytes());
    if (!ids.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path, ": ", ids.status().message()));
    }
    absl::Status status = writer->AddDocument(*ids);
    if (!status.ok()) return status;
    bytes += mapped->size();
  }
  absl::Status status = writer->Commit();
  if (!status.ok()) return status;
  std::cout << absl::StreamFormat(
      "wrote %s: %d documents, %s tokens from %s bytes (%.3f bytes a token), "
      "%d bytes each\n",
      out, writer->num_documents(),
      Human(static_cast<double>(writer->num_tokens())),
      Human(static_cast<double>(bytes)),
      static_cast<double>(bytes) / static_cast<double>(writer->num_tokens()),
      BytesPerToken(tokenizer.vocab_size()));
  return absl::OkStatus();
}

absl::Status Prepare(const PrepareOptions& options) {
  absl::StatusOr<std::vector<DataFile>> files =
      ExpandFiles(options.paths, options.extensions);
  if (!files.ok()) return files.status();
  FileSplit split;
  if (options.held_out.empty()) {
    split.train = *std::move(files);
  } else {
    absl::StatusOr<FileSplit> halves =
        SplitFiles(*files, options.holdout_fraction, options.seed);
    if (!halves.ok()) return halves.status();
    split = *std::move(halves);
  }
  // A tokenizer that had seen the held-out files would flatter the model.
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      MakeTokenizer(options, split.train);
  if (!tokenizer.ok()) return tokenizer.status();
  absl::Status status = WriteTokens(split.train, **tokenizer, options.out);
  if (!status.ok() || split.held_out.empty()) return status;
  return WriteTokens(split.held_out, **tokenizer, options.held_out);
}

}  // namespace

Command AddPrepare(CLI::App& program) {
  auto options = std::make_shared<PrepareOptions>();
  CLI::App* app = program.add_subcommand(
      "prepare",
      "Turn files into one token file, which training maps into memory");
  app->add_option("PATH", options->paths,
                  "Files, folders (searched recursively) and quoted globs; "
                  "each file is a document")
      ->required();
  app->add_option("--out", options->out, "The token file to write")
      ->type_name("FILE")
      ->required();
  app->add_option("--extensions", options->extensions,
                  "Endings that count in folders, such as .txt,.md; default: "
                  "all files")
      ->type_name("LIST")
      ->expected(1)
      ->delimiter(',');
  app->add_option("--held-out", options->held_out,
                  "Write the held-out share of the files here")
      ->type_name("FILE");
  app->add_option("--holdout-fraction", options->holdout_fraction,
                  "That share; default 0.05")
      ->type_name("X")
      ->check(CLI::Range(0.0, 1.0));
  app->add_option("--seed", options->seed,
                  "Chooses the held-out files; default 0");
  auto* tokenizer = app->add_option("--tokenizer", options->tokenizer,
                                    "A SentencePiece model; default: bytes")
                        ->type_name("MODEL");
  app->add_option("--learn-tokenizer", options->learn_tokenizer,
                  "Learn a SentencePiece model from the files first, and "
                  "write it here")
      ->type_name("MODEL")
      ->excludes(tokenizer);
  app->add_option("--vocab-size", options->learn.vocab_size,
                  "Pieces to learn; default 8192")
      ->type_name("N");
  app->add_option("--model-type", options->learn.model_type,
                  "bpe (default) or unigram")
      ->check(CLI::IsMember({"bpe", "unigram"}));
  AddThreadsOption(*app);
  app->footer(
      "Example:\n"
      "  carry prepare books/ --extensions .txt --out books.tokens "
      "--held-out books.eval.tokens\n"
      "  carry train recipes/mamba-130m.textproto --set "
      "data.train=books.tokens --set data.eval=books.eval.tokens");
  return {app, [options] { return Prepare(*options); }};
}

}  // namespace carry
