#include "framework/train/training_data.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "framework/data/files.h"

namespace carry {
namespace {

std::vector<std::string> List(
    const google::protobuf::RepeatedPtrField<std::string>& field) {
  return {field.begin(), field.end()};
}

// Files of both sides; `held_out` is empty if the recipe holds nothing out.
absl::StatusOr<FileSplit> FindFiles(const config::Data& data, uint64_t seed) {
  const std::vector<std::string> extensions = List(data.extensions());
  absl::StatusOr<std::vector<DataFile>> files =
      ExpandFiles(List(data.train()), extensions);
  if (!files.ok()) return files.status();
  FileSplit split;
  if (data.eval_size() > 0) {
    absl::StatusOr<std::vector<DataFile>> eval =
        ExpandFiles(List(data.eval()), extensions);
    if (!eval.ok()) return eval.status();
    files = WithoutHeldOut(*files, *eval);
    if (!files.ok()) return files.status();
    split.train = *std::move(files);
    split.held_out = *std::move(eval);
    return split;
  }
  if (data.holdout_fraction() > 0) {
    return SplitFiles(*files, data.holdout_fraction(), seed);
  }
  split.train = *std::move(files);
  return split;
}

absl::StatusOr<TrainingData> Open(const config::Data& data, uint64_t seed,
                                  bool train) {
  TrainingData opened;
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      OpenTokenizer(data.tokenizer());
  if (!tokenizer.ok()) return tokenizer.status();
  opened.tokenizer = *std::move(tokenizer);
  absl::StatusOr<FileSplit> split = FindFiles(data, seed);
  if (!split.ok()) return split.status();
  const auto corpus = [&](const std::vector<DataFile>& files,
                          std::unique_ptr<const Corpus>* out) -> absl::Status {
    absl::StatusOr<std::unique_ptr<const Corpus>> c =
        Corpus::Open(files, *opened.tokenizer);
    if (!c.ok()) return c.status();
    *out = *std::move(c);
    return absl::OkStatus();
  };
  if (train) {
    absl::Status status = corpus(split->train, &opened.train);
    if (!status.ok()) return status;
  }
  if (!split->held_out.empty()) {
    absl::Status status = corpus(split->held_out, &opened.held_out);
    if (!status.ok()) return status;
  }
  return opened;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(
    const config::Tokenizer& config) {
  if (config.kind_case() == config::Tokenizer::kSentencepiece) {
    return LoadSentencePiece(config.sentencepiece());
  }
  return NewByteTokenizer();
}

absl::Status ResolveVocabulary(const Tokenizer& tokenizer,
                               config::Model* model) {
  const int64_t size = tokenizer.vocab_size();
  if (model->vocab_size() == 0) model->set_vocab_size(size);
  if (model->vocab_size() >= size) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "model.vocab_size is ", model->vocab_size(), ", but the tokenizer has ",
      size, " ids; leave it out or raise it"));
}

absl::Status ResolveVocabulary(config::Recipe* recipe) {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer =
      OpenTokenizer(recipe->data().tokenizer());
  if (!tokenizer.ok()) return tokenizer.status();
  return ResolveVocabulary(**tokenizer, recipe->mutable_model());
}

absl::StatusOr<TrainingData> OpenTrainingData(const config::Data& data,
                                              uint64_t seed) {
  return Open(data, seed, /*train=*/true);
}

absl::StatusOr<TrainingData> OpenHeldOutData(const config::Data& data,
                                             uint64_t seed) {
  return Open(data, seed, /*train=*/false);
}

}  // namespace carry
