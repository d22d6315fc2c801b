// A corpus: documents of token ids with random access, from token files or
// from plain files.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/data/files.h"
#include "framework/data/token_file.h"
#include "framework/data/tokenizer.h"
#include "framework/io/file.h"

namespace carry {

// Immutable; all methods may be called from any thread. No document is empty.
class Corpus {
 public:
  // Plain files are one document each: byte tokens come from the file itself
  // (mapped where it is large), text that needs a tokenizer is encoded here,
  // once, on NumThreads() threads, and kept as 1, 2 or 4 bytes a token. Token
  // files must have been made with this tokenizer. kInvalidArgument: both
  // kinds mixed, another tokenizer, binary files for a text tokenizer, no
  // token at all.
  static absl::StatusOr<std::unique_ptr<const Corpus>> Open(
      const std::vector<DataFile>& files, const Tokenizer& tokenizer);

  int64_t num_documents() const { return num_documents_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t vocab_size() const { return vocab_size_; }
  // 32 hexadecimal digits that follow from the documents, in order, and from
  // the tokenizer: equal on every rank and after every restart.
  const std::string& digest() const { return digest_; }

  // REQUIRES for all below: 0 <= document < num_documents().
  int64_t DocumentLength(int64_t document) const;
  // The file that it comes from.
  const std::string& DocumentPath(int64_t document) const;
  // Ids of tokens [offset, offset + count). REQUIRES: they exist.
  void ReadTokens(int64_t document, int64_t offset, int64_t count,
                  int32_t* out) const;

 private:
  // The documents of one file; exactly one of the three holds their tokens.
  struct Source {
    std::string path;
    int64_t first_document = 0;
    int bytes_per_token = 1;
    const uint8_t* tokens = nullptr;
    const uint64_t* offsets = nullptr;  // nullptr: one document.
    int64_t num_tokens = 0;
    int64_t num_documents = 1;
    TokenFile token_file;
    MappedFile mapped;
    std::string memory;
  };

  Corpus() = default;
  absl::Status AddTokenFile(const DataFile& file, const Tokenizer& tokenizer);
  absl::Status AddPlainFiles(const std::vector<DataFile>& files,
                             const Tokenizer& tokenizer);
  static absl::Status LoadPlain(const DataFile& file,
                                const Tokenizer& tokenizer, Source* source);
  absl::Status Finish(const Tokenizer& tokenizer);
  const Source& SourceOf(int64_t document) const;

  std::vector<Source> sources_;
  int64_t num_documents_ = 0;
  int64_t num_tokens_ = 0;
  int64_t vocab_size_ = 0;
  std::string digest_;
};

}  // namespace carry
