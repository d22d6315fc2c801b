// Token files of any bytes, as they are and with checksums made right: an
// error, or documents that lie in the file with ids below the vocabulary.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "framework/data/token_file.h"
#include "kernels/check.h"
#include "xxhash.h"

namespace {

void Parse(const std::vector<uint64_t>& aligned, size_t size) {
  const char* bytes = reinterpret_cast<const char*>(aligned.data());
  const auto view = carry::ParseTokenFile({bytes, size}, "fuzz");
  if (!view.ok()) {
    CARRY_CHECK(!view.status().message().empty());
    return;
  }
  CARRY_CHECK(view->num_documents >= 1 &&
              view->tokenizer_fingerprint.size() <= 100);
  for (int64_t d = 0; d < view->num_documents; ++d) {
    CARRY_CHECK(view->offsets[d] < view->offsets[d + 1]);
  }
  CARRY_CHECK(view->offsets[view->num_documents] ==
              static_cast<uint64_t>(view->num_tokens));
  for (int64_t i = 0; i < view->num_tokens; ++i) {
    uint32_t id = 0;
    std::memcpy(&id, view->tokens + i * view->bytes_per_token,
                view->bytes_per_token);
    CARRY_CHECK(id < view->vocab_size);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // As a mapped file is: aligned. The sanitizer sees reads past its end to
  // within eight bytes.
  std::vector<uint64_t> aligned((size + 7) / 8);
  if (size > 0) std::memcpy(aligned.data(), data, size);
  Parse(aligned, size);
  constexpr size_t kHeader = 192;
  if (size < kHeader) return 0;
  char* bytes = reinterpret_cast<char*>(aligned.data());
  const XXH128_hash_t payload = XXH3_128bits(bytes + kHeader, size - kHeader);
  std::memcpy(bytes + 160, &payload.low64, 8);
  std::memcpy(bytes + 168, &payload.high64, 8);
  const uint64_t header = XXH3_64bits(bytes, kHeader - 8);
  std::memcpy(bytes + kHeader - 8, &header, 8);
  Parse(aligned, size);
  return 0;
}
