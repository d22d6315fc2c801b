#include "framework/data/corpus.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/parallel_for.h"
#include "xxhash.h"

namespace carry {
namespace {

// Smaller files are read: a process may have only some 65,530 mappings
// (vm.max_map_count), and a mapping of a few KiB costs as much as a copy.
constexpr int64_t kMapFrom = 256 << 10;

// Ids of T at `tokens`, widened.
template <typename T>
void Widen(const uint8_t* tokens, int64_t offset, int64_t count, int32_t* out) {
  const T* ids = reinterpret_cast<const T*>(tokens) + offset;
  for (int64_t i = 0; i < count; ++i) out[i] = static_cast<int32_t>(ids[i]);
}

std::string Pack(const std::vector<int32_t>& ids, int width) {
  std::string packed(ids.size() * width, '\0');
  for (size_t i = 0; i < ids.size(); ++i) {
    std::memcpy(packed.data() + i * width, &ids[i], width);
  }
  return packed;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Corpus>> Corpus::Open(
    const std::vector<DataFile>& files, const Tokenizer& tokenizer) {
  std::unique_ptr<Corpus> corpus(new Corpus);
  const auto is_token_file = [](const DataFile& file) {
    return IsTokenFile(file.path);
  };
  const int64_t prepared =
      std::count_if(files.begin(), files.end(), is_token_file);
  absl::Status s;
  if (prepared == 0) {
    s = corpus->AddPlainFiles(files, tokenizer);
  } else if (prepared == static_cast<int64_t>(files.size())) {
    for (size_t i = 0; s.ok() && i < files.size(); ++i) {
      s = corpus->AddTokenFile(files[i], tokenizer);
    }
  } else {
    const auto plain =
        std::find_if_not(files.begin(), files.end(), is_token_file);
    s = absl::InvalidArgumentError(absl::StrCat(
        "token files and plain files are mixed (", prepared, " of ",
        files.size(), " are token files, ", plain->path,
        " is not); name one kind, or make a token file of the others with "
        "carry prepare"));
  }
  if (s.ok()) s = corpus->Finish(tokenizer);
  if (!s.ok()) return s;
  return std::unique_ptr<const Corpus>(std::move(corpus));
}

absl::Status Corpus::AddTokenFile(const DataFile& file,
                                  const Tokenizer& tokenizer) {
  absl::StatusOr<TokenFile> opened = TokenFile::Open(file.path);
  if (!opened.ok()) return opened.status();
  const TokenFileView& view = opened->view();
  if (view.tokenizer_fingerprint != tokenizer.fingerprint() ||
      view.vocab_size != tokenizer.vocab_size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.path, " was made with the tokenizer ", view.tokenizer_fingerprint,
        " of ", view.vocab_size, " ids, but the recipe's is ",
        tokenizer.fingerprint(), " of ", tokenizer.vocab_size(),
        "; make it again with carry prepare, or set data.tokenizer"));
  }
  Source source;
  source.path = file.path;
  source.bytes_per_token = view.bytes_per_token;
  source.tokens = view.tokens;
  source.offsets = view.offsets;
  source.num_tokens = view.num_tokens;
  source.num_documents = view.num_documents;
  source.token_file = std::move(*opened);
  sources_.push_back(std::move(source));
  return absl::OkStatus();
}

absl::Status Corpus::LoadPlain(const DataFile& file, const Tokenizer& tokenizer,
                               Source* source) {
  source->path = file.path;
  absl::StatusOr<MappedFile> mapped = MappedFile::Open(file.path);
  if (!mapped.ok()) return mapped.status();
  if (tokenizer.text_only()) {
    absl::Status s = CheckIsText(mapped->bytes(), file.path);
    if (!s.ok()) return s;
    const absl::StatusOr<std::vector<int32_t>> ids =
        tokenizer.Encode(mapped->bytes());
    if (!ids.ok()) {
      return absl::Status(
          ids.status().code(),
          absl::StrCat(file.path, ": ", ids.status().message()));
    }
    source->bytes_per_token = BytesPerToken(tokenizer.vocab_size());
    source->memory = Pack(*ids, source->bytes_per_token);
    source->num_tokens = static_cast<int64_t>(ids->size());
  } else {
    source->num_tokens = mapped->size();
    if (mapped->size() >= kMapFrom) {
      source->mapped = std::move(*mapped);
    } else {
      source->memory = std::string(mapped->bytes());
    }
  }
  return absl::OkStatus();
}

absl::Status Corpus::AddPlainFiles(const std::vector<DataFile>& files,
                                   const Tokenizer& tokenizer) {
  const auto n = static_cast<int64_t>(files.size());
  std::vector<Source> loaded(files.size());
  std::vector<absl::Status> errors(files.size());
  ParallelFor(n, [&](int64_t i) {
    errors[i] = LoadPlain(files[i], tokenizer, &loaded[i]);
  });
  for (const absl::Status& error : errors) {
    if (!error.ok()) return error;
  }
  for (Source& source : loaded) {
    if (source.num_tokens > 0) sources_.push_back(std::move(source));
  }
  return absl::OkStatus();
}

absl::Status Corpus::Finish(const Tokenizer& tokenizer) {
  vocab_size_ = tokenizer.vocab_size();
  std::string parts = absl::StrCat(tokenizer.fingerprint(), "\n");
  for (Source& source : sources_) {
    // Now that the sources lie where they stay.
    if (!source.memory.empty()) {
      source.tokens = reinterpret_cast<const uint8_t*>(source.memory.data());
    } else if (source.tokens == nullptr) {
      source.tokens = source.mapped.data();
    }
    source.first_document = num_documents_;
    num_documents_ += source.num_documents;
    num_tokens_ += source.num_tokens;
    if (source.offsets != nullptr) {
      absl::StrAppend(&parts, source.num_documents, " ", source.num_tokens, " ",
                      source.token_file.view().checksum, "\n");
    } else {
      const XXH128_hash_t hash = XXH3_128bits(
          source.tokens, source.num_tokens * source.bytes_per_token);
      absl::StrAppend(&parts, "1 ", source.num_tokens, " ",
                      absl::Hex(hash.high64, absl::kZeroPad16),
                      absl::Hex(hash.low64, absl::kZeroPad16), "\n");
    }
  }
  if (num_tokens_ == 0) {
    return absl::InvalidArgumentError(
        "the data files hold no token; name files that are not empty");
  }
  const XXH128_hash_t hash = XXH3_128bits(parts.data(), parts.size());
  digest_ = absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16),
                         absl::Hex(hash.low64, absl::kZeroPad16));
  return absl::OkStatus();
}

const Corpus::Source& Corpus::SourceOf(int64_t document) const {
  CARRY_CHECK(document >= 0 && document < num_documents_);
  const auto after = std::upper_bound(
      sources_.begin(), sources_.end(), document,
      [](int64_t d, const Source& s) { return d < s.first_document; });
  return *(after - 1);
}

int64_t Corpus::DocumentLength(int64_t document) const {
  const Source& source = SourceOf(document);
  if (source.offsets == nullptr) return source.num_tokens;
  const int64_t i = document - source.first_document;
  return static_cast<int64_t>(source.offsets[i + 1] - source.offsets[i]);
}

const std::string& Corpus::DocumentPath(int64_t document) const {
  return SourceOf(document).path;
}

void Corpus::ReadTokens(int64_t document, int64_t offset, int64_t count,
                        int32_t* out) const {
  const Source& source = SourceOf(document);
  int64_t begin = 0;
  int64_t length = source.num_tokens;
  if (source.offsets != nullptr) {
    const int64_t i = document - source.first_document;
    begin = static_cast<int64_t>(source.offsets[i]);
    length = static_cast<int64_t>(source.offsets[i + 1]) - begin;
  }
  CARRY_CHECK(offset >= 0 && count >= 0 && count <= length &&
              offset <= length - count);
  switch (source.bytes_per_token) {
    case 1:
      return Widen<uint8_t>(source.tokens, begin + offset, count, out);
    case 2:
      return Widen<uint16_t>(source.tokens, begin + offset, count, out);
    default:
      return Widen<uint32_t>(source.tokens, begin + offset, count, out);
  }
}

}  // namespace carry
