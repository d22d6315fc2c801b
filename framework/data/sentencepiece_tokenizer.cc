#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "framework/data/sentencepiece_plugin.h"
#include "framework/data/tokenizer.h"
#include "framework/io/file.h"
#include "framework/random.h"
#include "kernels/check.h"
#include "xxhash.h"

namespace carry {
namespace {

constexpr char kPlugin[] = "libcarry_sentencepiece.so";
constexpr int64_t kMaxModel = int64_t{1} << 30;
// The trainer leaves out sentences beyond 4,192 bytes.
constexpr size_t kMaxSentence = 4096;
// The library keeps about 100 bytes for each piece of a text: longer ones are
// cut, after a line where there is one.
constexpr size_t kMaxEncode = 1 << 20;
// After so many ids without a whole character, what there is is shown.
constexpr size_t kMaxHeld = 256;
constexpr char kReplacement[] = "\xef\xbf\xbd";  // U+FFFD.

// Whether a Protocol Buffers is loaded whose symbols would take the place of
// those inside SentencePiece; it would abort then.
bool SharedProtobufIsLoaded() {
  return dl_iterate_phdr(
             [](dl_phdr_info* info, size_t, void*) {
               const absl::string_view path = info->dlpi_name;
               return absl::StrContains(path, "/libprotobuf") ? 1 : 0;
             },
             nullptr) != 0;
}

struct Plugin {
  void* handle = nullptr;
  std::string error;
};

// Looks beside the program, where the build put it, and where the system has
// its libraries. Not by a run path: under a sanitizer dlopen is called from the
// sanitizer's library, to which the program's run path means nothing.
Plugin OpenPlugin() {
  std::error_code ignored;
  const std::string folder =
      std::filesystem::read_symlink("/proc/self/exe", ignored)
          .parent_path()
          .string();
  Plugin plugin;
  for (const std::string& path :
       {JoinPath(folder, kPlugin), std::string(CARRY_SENTENCEPIECE_PLUGIN),
        std::string(kPlugin)}) {
    // RTLD_LOCAL keeps its symbols, a second Protocol Buffers among them, from
    // the rest of the program.
    plugin.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (plugin.handle != nullptr) return plugin;
    // The plug-in is there, but lacks something: that is the error to show.
    const char* error = dlerror();
    if (plugin.error.empty() || PathExists(path)) {
      plugin.error = error == nullptr ? path : error;
    }
  }
  return plugin;
}

absl::StatusOr<const SentencePieceApi*> LoadPlugin() {
  if (SharedProtobufIsLoaded()) {
    return absl::UnavailableError(
        "cannot load SentencePiece: this program has loaded libprotobuf.so, "
        "with which it cannot share a process; link Protocol Buffers "
        "statically (target carry_protobuf), or use byte tokens");
  }
  static const Plugin plugin = OpenPlugin();
  if (plugin.handle == nullptr) {
    return absl::UnavailableError(absl::StrCat(
        "cannot load SentencePiece: ", plugin.error,
        "; install libsentencepiece0 and keep ", kPlugin,
        " where the build put it or beside the program, or use byte tokens"));
  }
  const auto api = reinterpret_cast<decltype(&CarrySentencePieceApi)>(
      dlsym(plugin.handle, "CarrySentencePieceApi"));
  CARRY_CHECK(api != nullptr);
  return api();
}

bool IsContinuation(char c) { return (c & 0xc0) == 0x80; }

// Up to `limit` bytes from the front of `text`: to the end of the last line in
// them, or else to a whole character.
absl::string_view Piece(absl::string_view text, size_t limit) {
  if (text.size() <= limit) return text;
  const size_t line = text.substr(0, limit).rfind('\n');
  if (line != absl::string_view::npos) return text.substr(0, line + 1);
  size_t end = limit;
  while (end > limit - 4 && IsContinuation(text[end])) --end;
  return text.substr(0, end);
}

class SentencePieceDecoder : public StreamDecoder {
 public:
  explicit SentencePieceDecoder(const Tokenizer& tokenizer)
      : tokenizer_(tokenizer) {}

  std::string Push(int32_t id) override {
    ids_.push_back(id);
    return Emit(/*finish=*/false);
  }
  std::string Finish() override { return Emit(/*finish=*/true); }

 private:
  // The text of a piece depends on what comes before: a space at the very
  // front goes, byte pieces join to one character. So decode from a place
  // that was certain, and hold back the last replacement characters: the bytes
  // that they stand for may be the beginning of a character.
  std::string Emit(bool finish) {
    const absl::StatusOr<std::string> decoded = tokenizer_.Decode(ids_);
    CARRY_CHECK(decoded.ok());
    absl::string_view certain = *decoded;
    if (!finish && ids_.size() - context_ < kMaxHeld) {
      for (int i = 0; i < 3 && absl::EndsWith(certain, kReplacement); ++i) {
        certain.remove_suffix(3);
      }
    }
    if (certain.size() <= shown_) return "";
    std::string fresh(certain.substr(shown_));
    shown_ = certain.size();
    if (certain.size() == decoded->size()) {
      ids_.erase(ids_.begin(), ids_.begin() + static_cast<int64_t>(context_));
      context_ = ids_.size();
      const absl::StatusOr<std::string> context = tokenizer_.Decode(ids_);
      CARRY_CHECK(context.ok());
      shown_ = context->size();
    }
    return fresh;
  }

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;
  size_t context_ = 0;  // The first so many of ids_ are shown in full.
  size_t shown_ = 0;    // Bytes of the text of ids_ that are shown.
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<SentencePieceModel> model,
                         std::string fingerprint)
      : model_(std::move(model)), fingerprint_(std::move(fingerprint)) {}

  int64_t vocab_size() const override { return model_->Size(); }
  const std::string& fingerprint() const override { return fingerprint_; }
  bool text_only() const override { return true; }

  absl::StatusOr<std::vector<int32_t>> Encode(
      absl::string_view bytes) const override {
    std::vector<int32_t> all;
    std::vector<int> ids;
    while (!bytes.empty()) {
      const absl::string_view piece = Piece(bytes, kMaxEncode);
      bytes.remove_prefix(piece.size());
      const std::string error =
          model_->Encode({piece.data(), piece.size()}, &ids);
      if (!error.empty()) {
        return absl::InvalidArgumentError(
            absl::StrCat("SentencePiece cannot encode: ", error));
      }
      all.insert(all.end(), ids.begin(), ids.end());
    }
    return all;
  }

  absl::StatusOr<std::string> Decode(
      absl::Span<const int32_t> ids) const override {
    for (const int32_t id : ids) {
      if (id < 0 || id >= vocab_size()) {
        return absl::InvalidArgumentError(
            absl::StrCat("token id ", id, " is outside the vocabulary of ",
                         vocab_size(), " pieces"));
      }
    }
    std::string text;
    const std::string error =
        model_->Decode(std::vector<int>(ids.begin(), ids.end()), &text);
    if (!error.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("SentencePiece cannot decode: ", error));
    }
    return text;
  }

  std::unique_ptr<StreamDecoder> NewStreamDecoder() const override {
    return std::make_unique<SentencePieceDecoder>(*this);
  }

 private:
  std::unique_ptr<SentencePieceModel> model_;
  std::string fingerprint_;
};

// Gives the lines of the files one by one, without their newline, up to a
// number of bytes.
class Lines {
 public:
  Lines(std::vector<std::string> files, int64_t max_bytes)
      : files_(std::move(files)), left_(max_bytes) {}

  bool Next(std::string* line) {
    while (status_.ok() && left_ > 0) {
      while (rest_.empty()) {
        if (next_ == files_.size() || !Open(files_[next_++])) return false;
      }
      const absl::string_view piece = rest_.substr(
          0, std::min(rest_.find('\n'), Piece(rest_, kMaxSentence).size()));
      rest_.remove_prefix(piece.size());
      if (!rest_.empty() && rest_.front() == '\n') rest_.remove_prefix(1);
      left_ -= static_cast<int64_t>(piece.size()) + 1;
      if (piece.empty()) continue;
      line->assign(piece.data(), piece.size());
      return true;
    }
    return false;
  }

  const absl::Status& status() const { return status_; }

 private:
  bool Open(const std::string& path) {
    absl::StatusOr<MappedFile> file = MappedFile::Open(path);
    status_ = file.ok() ? CheckIsText(file->bytes(), path) : file.status();
    if (!status_.ok()) return false;
    file_ = std::move(*file);
    rest_ = file_.bytes();
    return true;
  }

  std::vector<std::string> files_;
  int64_t left_;
  size_t next_ = 0;
  MappedFile file_;
  absl::string_view rest_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> LoadSentencePiece(
    const std::string& path) {
  const absl::StatusOr<std::string> bytes = ReadFile(path, kMaxModel);
  if (!bytes.ok()) return bytes.status();
  const absl::StatusOr<const SentencePieceApi*> api = LoadPlugin();
  if (!api.ok()) return api.status();
  std::unique_ptr<SentencePieceModel> model;
  std::string error = (*api)->load(*bytes, &model);
  if (error.empty() && model->Size() <= 0) error = "it has no pieces";
  if (!error.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a SentencePiece model: ", error,
                     "; name a .model file"));
  }
  const XXH128_hash_t hash = XXH3_128bits(bytes->data(), bytes->size());
  return std::make_unique<SentencePieceTokenizer>(
      std::move(model),
      absl::StrCat("sentencepiece-", absl::Hex(hash.high64, absl::kZeroPad16),
                   absl::Hex(hash.low64, absl::kZeroPad16)));
}

absl::Status TrainSentencePiece(const std::vector<std::string>& files,
                                const SentencePieceOptions& options,
                                const std::string& model_path) {
  if (options.model_type != "bpe" && options.model_type != "unigram") {
    return absl::InvalidArgumentError(absl::StrCat(
        "SentencePiece model type \"", absl::CHexEscape(options.model_type),
        "\" is not known; choose bpe or unigram"));
  }
  if (options.vocab_size < 300 || options.vocab_size > 1 << 20) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a SentencePiece vocabulary of ", options.vocab_size,
        " is out of range; choose 300 (256 are the bytes) to ", 1 << 20));
  }
  const absl::StatusOr<const SentencePieceApi*> api = LoadPlugin();
  if (!api.ok()) return api.status();
  std::vector<std::string> order = files;
  std::sort(order.begin(), order.end());
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(
        order[i - 1],
        order[UniformBelow(i, options.seed, StreamOf("sentencepiece"), i)]);
  }
  Lines lines(std::move(order), options.max_bytes);
  const std::map<std::string, std::string> arguments = {
      {"vocab_size", absl::StrCat(options.vocab_size)},
      {"model_type", options.model_type},
      {"character_coverage", absl::StrCat(options.character_coverage)},
      {"num_threads", absl::StrCat(std::max(options.threads, 1))},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"byte_fallback", "true"},
      {"user_defined_symbols", "\n"},
      {"unk_id", "0"},
      {"bos_id", "-1"},
      {"eos_id", "-1"},
      {"pad_id", "-1"},
      {"minloglevel", "2"}};
  std::string model;
  const std::string error = (*api)->train(
      arguments, [&](std::string* line) { return lines.Next(line); }, &model);
  if (!lines.status().ok()) return lines.status();
  if (!error.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("SentencePiece cannot train: ", error,
                     "; give it more text or a smaller vocabulary"));
  }
  return WriteFileAtomically(model_path, model);
}

}  // namespace carry
