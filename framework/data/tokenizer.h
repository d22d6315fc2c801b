// Bytes to token ids and back.
//
// Tokenizers are immutable and may be used from several threads; a
// StreamDecoder belongs to one.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace carry {

// Decodes a stream of ids as they come. What Push and Finish return, joined,
// is what Tokenizer::Decode gives for all ids.
class StreamDecoder {
 public:
  virtual ~StreamDecoder() = default;
  // Text that is certain after one more id; may be empty while a character is
  // incomplete. REQUIRES: 0 <= id < vocab_size.
  virtual std::string Push(int32_t id) = 0;
  // What is left at the end.
  virtual std::string Finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids are in [0, vocab_size).
  virtual int64_t vocab_size() const = 0;
  // Equal for tokenizers that give the same ids, else different; printable
  // ASCII of at most 100 characters. Stored in token files and checkpoints.
  virtual const std::string& fingerprint() const = 0;
  // Whether it takes text only, so that binary files are a mistake.
  virtual bool text_only() const = 0;
  virtual absl::StatusOr<std::vector<int32_t>> Encode(
      absl::string_view bytes) const = 0;
  // kInvalidArgument: an id outside [0, vocab_size).
  virtual absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const = 0;
  virtual std::unique_ptr<StreamDecoder> NewStreamDecoder() const = 0;
};

// One token per byte, ids 0..255.
std::unique_ptr<Tokenizer> NewByteTokenizer();

// From a .model file. Fails where the file is not such a model and where the
// SentencePiece library is not at hand.
absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(
    const std::string& path);

struct SentencePieceOptions {
  int64_t vocab_size = 8192;
  std::string model_type = "bpe";  // "bpe" or "unigram".
  // Share of the text whose characters are pieces; others become bytes.
  double character_coverage = 0.9995;
  // Bytes of text to learn from; files beyond it are left out.
  int64_t max_bytes = int64_t{256} << 20;
  // Which files come first where max_bytes cuts.
  uint64_t seed = 0;
  int threads = 1;
};

// Learns a model from text files and writes `model_path` atomically. Nothing
// is normalised and unknown characters fall back to bytes, so that valid UTF-8
// decodes to itself.
absl::Status TrainSentencePiece(const std::vector<std::string>& files,
                                const SentencePieceOptions& options,
                                const std::string& model_path);

// kInvalidArgument where `bytes` of `path` hold a NUL, as binary files do.
absl::Status CheckIsText(absl::string_view bytes, const std::string& path);

}  // namespace carry
