// Token files: documents of token ids, memory-mapped. The grammar is in
// README.md.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "framework/io/file.h"

namespace carry {

// Whether the file begins as a token file does. False where it cannot be read.
bool IsTokenFile(const std::string& path);

// Bytes that hold any id below `vocab_size`: 1, 2 or 4.
int BytesPerToken(int64_t vocab_size);

// What the bytes of a token file hold, checked. Ids may be read from any
// thread.
struct TokenFileView {
  int64_t vocab_size = 0;
  int64_t num_documents = 0;
  int64_t num_tokens = 0;
  int bytes_per_token = 1;
  std::string tokenizer_fingerprint;
  std::string checksum;               // Of the payload, 32 hexadecimal digits.
  const uint8_t* tokens = nullptr;    // Little-endian, aligned to 64 bytes.
  const uint64_t* offsets = nullptr;  // num_documents + 1 of them, in tokens.
};

// Checks everything: lengths, checksums of header and payload, offsets that
// ascend, ids below the vocabulary's size. Reads all bytes once. `path` is for
// messages. REQUIRES: `file` is aligned to 8 bytes.
absl::StatusOr<TokenFileView> ParseTokenFile(absl::string_view file,
                                             const std::string& path);

// A mapped token file.
class TokenFile {
 public:
  static absl::StatusOr<TokenFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const TokenFileView& view() const { return view_; }

 private:
  MappedFile file_;
  TokenFileView view_;
};

// Writes documents one after another; only their offsets stay in memory. The
// file appears in Commit (see OutputFile).
class TokenFileWriter {
 public:
  // REQUIRES: 1 <= vocab_size <= 2^31; fingerprint of at most 100 characters.
  static absl::StatusOr<TokenFileWriter> Create(
      const std::string& path, int64_t vocab_size,
      const std::string& tokenizer_fingerprint);
  TokenFileWriter(TokenFileWriter&&) noexcept;
  ~TokenFileWriter();

  // Leaves out an empty document. kInvalidArgument: an id outside
  // [0, vocab_size).
  absl::Status AddDocument(absl::Span<const int32_t> ids);
  // kInvalidArgument where no document was added.
  absl::Status Commit();

  int64_t num_documents() const;
  int64_t num_tokens() const;

 private:
  struct State;
  explicit TokenFileWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace carry
