#include "launch/data.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

std::vector<std::string> List(
    const google::protobuf::RepeatedPtrField<std::string>& field) {
  return {field.begin(), field.end()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> OpenTokenizer(
    const config::Tokenizer& tokenizer) {
  if (tokenizer.kind_case() == config::Tokenizer::kSentencepiece) {
    return LoadSentencePiece(tokenizer.sentencepiece());
  }
  return NewByteTokenizer();
}

absl::StatusOr<FileSplit> OpenFiles(const config::Data& data, uint64_t seed) {
  const std::vector<std::string> extensions = List(data.extensions());
  absl::StatusOr<std::vector<DataFile>> files =
      ExpandFiles(List(data.train()), extensions);
  if (!files.ok()) return files.status();
  if (data.eval_size() == 0 && data.holdout_fraction() > 0) {
    return SplitFiles(*files, data.holdout_fraction(), seed);
  }
  FileSplit split;
  split.train = *std::move(files);
  if (data.eval_size() == 0) return split;

  files = ExpandFiles(List(data.eval()), extensions);
  if (!files.ok()) return files.status();
  split.held_out = *std::move(files);
  std::set<std::string> held_out;
  for (const DataFile& file : split.held_out) held_out.insert(file.path);
  auto both = std::remove_if(
      split.train.begin(), split.train.end(),
      [&](const DataFile& file) { return held_out.count(file.path) > 0; });
  split.train.erase(both, split.train.end());
  if (split.train.empty()) {
    return absl::InvalidArgumentError(
        "every file of data.train is in data.eval too; nothing is left to "
        "train on");
  }
  return split;
}

}  // namespace carry
