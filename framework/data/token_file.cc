#include "framework/data/token_file.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "xxhash.h"

namespace carry {
namespace {

// Ids and offsets are used as they lie in the file.
static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[9] = "CARRYTOK";
constexpr uint32_t kVersion = 1;
constexpr int64_t kMaxVocabulary = int64_t{1} << 31;
constexpr size_t kMaxFingerprint = 100;

struct Header {
  char magic[8];
  uint32_t version;
  uint32_t bytes_per_token;
  uint64_t vocab_size;
  uint64_t num_documents;
  uint64_t num_tokens;
  char fingerprint[120];         // Ends in zeros.
  uint64_t payload_checksum[2];  // XXH3-128, low half first.
  uint64_t reserved;             // Zero.
  uint64_t header_checksum;      // XXH3-64 of the bytes before it.
};
constexpr int64_t kPayload = sizeof(Header);
static_assert(kPayload == 192);  // A multiple of 64: tokens are aligned.

absl::Status Error(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", what,
                   "; the token file is damaged: make it again with carry "
                   "prepare"));
}

int64_t RoundUp8(int64_t n) { return (n + 7) / 8 * 8; }

std::string Hex(const uint64_t checksum[2]) {
  return absl::StrCat(absl::Hex(checksum[1], absl::kZeroPad16),
                      absl::Hex(checksum[0], absl::kZeroPad16));
}

uint64_t HeaderChecksum(const Header& header) {
  return XXH3_64bits(&header, offsetof(Header, header_checksum));
}

// Where the offsets lie and where the file ends; false where that is beyond 64
// bits.
bool Layout(const Header& header, int64_t* offsets, int64_t* end) {
  int64_t bytes = 0;
  int64_t count = 0;
  constexpr uint64_t kLimit = INT64_MAX - 8;
  if (header.num_tokens > kLimit || header.num_documents > kLimit) return false;
  if (__builtin_mul_overflow(static_cast<int64_t>(header.num_tokens),
                             static_cast<int64_t>(header.bytes_per_token),
                             &bytes) ||
      bytes > INT64_MAX - kPayload - 8) {
    return false;
  }
  *offsets = kPayload + RoundUp8(bytes);
  if (__builtin_mul_overflow(static_cast<int64_t>(header.num_documents) + 1,
                             int64_t{8}, &count)) {
    return false;
  }
  return !__builtin_add_overflow(*offsets, count, end);
}

absl::Status CheckHeader(const Header& header, int64_t size,
                         const std::string& path, int64_t* offsets) {
  if (header.header_checksum != HeaderChecksum(header)) {
    return Error(path, "the header was altered (its checksum differs)");
  }
  if (header.vocab_size < 1 ||
      header.vocab_size > static_cast<uint64_t>(kMaxVocabulary)) {
    return Error(path, absl::StrCat("a vocabulary of ", header.vocab_size,
                                    " ids is out of range"));
  }
  if (header.bytes_per_token != static_cast<uint32_t>(BytesPerToken(
                                    static_cast<int64_t>(header.vocab_size)))) {
    return Error(path, absl::StrCat(header.bytes_per_token,
                                    " bytes a token do not fit a vocabulary "
                                    "of ",
                                    header.vocab_size, " ids"));
  }
  const char* fingerprint_end = header.fingerprint + sizeof(header.fingerprint);
  const char* zero = std::find(header.fingerprint, fingerprint_end, '\0');
  if (zero - header.fingerprint > static_cast<int64_t>(kMaxFingerprint) ||
      std::any_of(zero, fingerprint_end, [](char c) { return c != '\0'; }) ||
      header.reserved != 0) {
    return Error(path, "the header has bytes set that must be zero");
  }
  int64_t end = 0;
  if (header.num_documents < 1 || header.num_tokens < header.num_documents ||
      !Layout(header, offsets, &end)) {
    return Error(path,
                 absl::StrCat(header.num_documents, " documents of ",
                              header.num_tokens, " tokens are impossible"));
  }
  if (end != size) {
    return Error(path, absl::StrCat("has ", size,
                                    " bytes where its header "
                                    "promises ",
                                    end, size < end ? " (truncated)" : ""));
  }
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckIds(const TokenFileView& view, const std::string& path) {
  const T* ids = reinterpret_cast<const T*>(view.tokens);
  const auto limit = static_cast<uint64_t>(view.vocab_size);
  constexpr int64_t kBlock = 4096;
  for (int64_t begin = 0; begin < view.num_tokens; begin += kBlock) {
    const int64_t end = std::min(begin + kBlock, view.num_tokens);
    // The maximum of a block vectorises; the search for the culprit need not.
    if (*std::max_element(ids + begin, ids + end) < limit) continue;
    const T* bad =
        std::find_if(ids + begin, ids + end, [&](T id) { return id >= limit; });
    return Error(path,
                 absl::StrCat("token ", bad - ids, " has id ", uint64_t{*bad},
                              " in a vocabulary of ", view.vocab_size));
  }
  return absl::OkStatus();
}

absl::Status CheckPayload(const TokenFileView& view, const std::string& path) {
  if (view.offsets[0] != 0) {
    return Error(path, "the first document does not begin at token 0");
  }
  for (int64_t i = 0; i < view.num_documents; ++i) {
    if (view.offsets[i + 1] <= view.offsets[i]) {
      return Error(path,
                   absl::StrCat("document ", i, " runs from token ",
                                view.offsets[i], " to ", view.offsets[i + 1]));
    }
  }
  if (view.offsets[view.num_documents] !=
      static_cast<uint64_t>(view.num_tokens)) {
    return Error(path, absl::StrCat("the last document ends at token ",
                                    view.offsets[view.num_documents], " of ",
                                    view.num_tokens));
  }
  switch (view.bytes_per_token) {
    case 1:
      return CheckIds<uint8_t>(view, path);
    case 2:
      return CheckIds<uint16_t>(view, path);
    default:
      return CheckIds<uint32_t>(view, path);
  }
}

}  // namespace

bool IsTokenFile(const std::string& path) {
  if (!IsRegularFile(path)) return false;
  const absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  return file.ok() && file->bytes().substr(0, 8) == kMagic;
}

int BytesPerToken(int64_t vocab_size) {
  return vocab_size <= 1 << 8 ? 1 : vocab_size <= 1 << 16 ? 2 : 4;
}

absl::StatusOr<TokenFileView> ParseTokenFile(absl::string_view file,
                                             const std::string& path) {
  if (file.substr(0, 8) != kMagic) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a token file (it does not begin with ",
                     kMagic, "); make one with carry prepare"));
  }
  if (static_cast<int64_t>(file.size()) < kPayload) {
    return Error(path,
                 absl::StrCat("has ", file.size(), " bytes, fewer than the ",
                              kPayload, " of its header (truncated)"));
  }
  Header header;
  std::memcpy(&header, file.data(), sizeof(header));
  if (header.version != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat(path, " is a token file of version ", header.version,
                     "; this program reads version ", kVersion,
                     ": make it again with carry prepare"));
  }
  int64_t offsets = 0;
  absl::Status s =
      CheckHeader(header, static_cast<int64_t>(file.size()), path, &offsets);
  if (!s.ok()) return s;
  const absl::string_view payload = file.substr(kPayload);
  const XXH128_hash_t hash = XXH3_128bits(payload.data(), payload.size());
  if (hash.low64 != header.payload_checksum[0] ||
      hash.high64 != header.payload_checksum[1]) {
    return Error(path,
                 "the tokens or offsets were altered (their checksum "
                 "differs)");
  }
  TokenFileView view;
  view.vocab_size = static_cast<int64_t>(header.vocab_size);
  view.num_documents = static_cast<int64_t>(header.num_documents);
  view.num_tokens = static_cast<int64_t>(header.num_tokens);
  view.bytes_per_token = static_cast<int>(header.bytes_per_token);
  view.tokenizer_fingerprint = header.fingerprint;
  view.checksum = Hex(header.payload_checksum);
  view.tokens = reinterpret_cast<const uint8_t*>(file.data()) + kPayload;
  view.offsets = reinterpret_cast<const uint64_t*>(file.data() + offsets);
  s = CheckPayload(view, path);
  if (!s.ok()) return s;
  return view;
}

absl::StatusOr<TokenFile> TokenFile::Open(const std::string& path) {
  absl::StatusOr<MappedFile> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  TokenFile file;
  file.file_ = std::move(*mapped);
  absl::StatusOr<TokenFileView> view = ParseTokenFile(file.file_.bytes(), path);
  if (!view.ok()) return view.status();
  file.view_ = std::move(*view);
  return file;
}

struct TokenFileWriter::State {
  explicit State(OutputFile f) : file(std::move(f)) {}
  ~State() { XXH3_freeState(hash); }

  absl::Status AppendPayload(absl::string_view bytes) {
    XXH3_128bits_update(hash, bytes.data(), bytes.size());
    return file.Append(bytes);
  }

  OutputFile file;
  XXH3_state_t* hash = XXH3_createState();
  Header header = {};
  std::vector<uint64_t> offsets = {0};
  std::string packed;
};

TokenFileWriter::TokenFileWriter(std::unique_ptr<State> state)
    : state_(std::move(state)) {}
TokenFileWriter::TokenFileWriter(TokenFileWriter&&) noexcept = default;
TokenFileWriter::~TokenFileWriter() = default;

int64_t TokenFileWriter::num_documents() const {
  return static_cast<int64_t>(state_->offsets.size()) - 1;
}
int64_t TokenFileWriter::num_tokens() const {
  return static_cast<int64_t>(state_->offsets.back());
}

absl::StatusOr<TokenFileWriter> TokenFileWriter::Create(
    const std::string& path, int64_t vocab_size,
    const std::string& tokenizer_fingerprint) {
  CARRY_CHECK(vocab_size >= 1 && vocab_size <= kMaxVocabulary);
  CARRY_CHECK(tokenizer_fingerprint.size() <= kMaxFingerprint);
  absl::StatusOr<OutputFile> file = OutputFile::Create(path);
  if (!file.ok()) return file.status();
  auto state = std::make_unique<State>(std::move(*file));
  CARRY_CHECK(state->hash != nullptr);
  XXH3_128bits_reset(state->hash);
  Header& header = state->header;
  std::memcpy(header.magic, kMagic, 8);
  header.version = kVersion;
  header.vocab_size = static_cast<uint64_t>(vocab_size);
  header.bytes_per_token = static_cast<uint32_t>(BytesPerToken(vocab_size));
  std::memcpy(header.fingerprint, tokenizer_fingerprint.data(),
              tokenizer_fingerprint.size());
  absl::Status s = state->file.Append(std::string(kPayload, '\0'));
  if (!s.ok()) return s;
  return TokenFileWriter(std::move(state));
}

absl::Status TokenFileWriter::AddDocument(absl::Span<const int32_t> ids) {
  if (ids.empty()) return absl::OkStatus();
  State& state = *state_;
  const size_t width = state.header.bytes_per_token;
  state.packed.resize(ids.size() * width);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 ||
        static_cast<uint64_t>(ids[i]) >= state.header.vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          "token ", i, " of document ", num_documents(), " has id ", ids[i],
          " in a vocabulary of ", state.header.vocab_size));
    }
    std::memcpy(state.packed.data() + i * width, &ids[i], width);
  }
  absl::Status s = state.AppendPayload(state.packed);
  if (!s.ok()) return s;
  state.offsets.push_back(state.offsets.back() + ids.size());
  return absl::OkStatus();
}

absl::Status TokenFileWriter::Commit() {
  State& state = *state_;
  if (num_documents() == 0) {
    return absl::InvalidArgumentError(
        "no document has a token; name files that are not empty");
  }
  const int64_t bytes = num_tokens() * state.header.bytes_per_token;
  absl::Status s =
      state.AppendPayload(std::string(RoundUp8(bytes) - bytes, '\0'));
  if (s.ok()) {
    s = state.AppendPayload(
        {reinterpret_cast<const char*>(state.offsets.data()),
         state.offsets.size() * sizeof(uint64_t)});
  }
  if (!s.ok()) return s;
  Header& header = state.header;
  header.num_documents = static_cast<uint64_t>(num_documents());
  header.num_tokens = static_cast<uint64_t>(num_tokens());
  const XXH128_hash_t hash = XXH3_128bits_digest(state.hash);
  header.payload_checksum[0] = hash.low64;
  header.payload_checksum[1] = hash.high64;
  header.header_checksum = HeaderChecksum(header);
  s = state.file.Rewrite(
      0, {reinterpret_cast<const char*>(&header), sizeof(header)});
  return s.ok() ? state.file.Commit() : s;
}

}  // namespace carry
