#include "framework/data/tokenizer.h"

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace carry {
namespace {

class ByteStreamDecoder : public StreamDecoder {
 public:
  std::string Push(int32_t id) override {
    CARRY_CHECK(id >= 0 && id < 256);
    return std::string(1, static_cast<char>(id));
  }
  std::string Finish() override { return ""; }
};

class ByteTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return 256; }
  const std::string& fingerprint() const override { return fingerprint_; }
  bool text_only() const override { return false; }

  absl::StatusOr<std::vector<int32_t>> Encode(
      absl::string_view bytes) const override {
    std::vector<int32_t> ids(bytes.size());
    for (size_t i = 0; i < bytes.size(); ++i) {
      ids[i] = static_cast<uint8_t>(bytes[i]);
    }
    return ids;
  }

  absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const override {
    std::string bytes(ids.size(), '\0');
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] > 255) {
        return absl::InvalidArgumentError(absl::StrCat(
            "token id ", ids[i], " is not a byte: ids must be 0 to 255"));
      }
      bytes[i] = static_cast<char>(ids[i]);
    }
    return bytes;
  }

  std::unique_ptr<StreamDecoder> NewStreamDecoder() const override {
    return std::make_unique<ByteStreamDecoder>();
  }

 private:
  const std::string fingerprint_ = "bytes";
};

}  // namespace

std::unique_ptr<Tokenizer> NewByteTokenizer() {
  return std::make_unique<ByteTokenizer>();
}

absl::Status CheckIsText(absl::string_view bytes, const std::string& path) {
  const size_t nul = bytes.find('\0');
  if (nul == absl::string_view::npos) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(path, " is not text: byte ", nul,
                   " is NUL; leave it out (data.extensions) or use byte tokens "
                   "(data.tokenizer { bytes: true })"));
}

}  // namespace carry
