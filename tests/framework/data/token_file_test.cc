#include "framework/data/token_file.h"

#include <cstring>

#include "tests/framework/temp_dir.h"
#include "xxhash.h"

namespace carry {
namespace {

using Documents = std::vector<std::vector<int32_t>>;

void WriteTokens(const std::string& path, int64_t vocab_size,
                 const Documents& documents) {
  auto writer = TokenFileWriter::Create(path, vocab_size, "bytes");
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (const auto& ids : documents) ASSERT_STATUS_OK(writer->AddDocument(ids));
  ASSERT_STATUS_OK(writer->Commit());
}

// Aligned, as a mapped file is.
absl::Status Parse(const std::string& bytes) {
  std::vector<uint64_t> aligned(bytes.size() / 8 + 1);
  std::memcpy(aligned.data(), bytes.data(), bytes.size());
  return ParseTokenFile(
             {reinterpret_cast<const char*>(aligned.data()), bytes.size()},
             "t.tok")
      .status();
}

template <typename T>
void Put(std::string* bytes, size_t offset, T value) {
  std::memcpy(bytes->data() + offset, &value, sizeof(value));
}

// Makes both checksums right again.
void Reseal(std::string* bytes) {
  const XXH128_hash_t payload =
      XXH3_128bits(bytes->data() + 192, bytes->size() - 192);
  Put(bytes, 160, payload.low64);
  Put(bytes, 168, payload.high64);
  Put(bytes, 184, XXH3_64bits(bytes->data(), 184));
}

TEST(TokenFile, RoundTripInEachWidth) {
  const TempDir dir;
  for (const auto& [vocab_size, width] : {std::pair<int64_t, int>{256, 1},
                                          {257, 2},
                                          {65536, 2},
                                          {65537, 4},
                                          {int64_t{1} << 31, 4}}) {
    const auto last = static_cast<int32_t>(vocab_size - 1);
    WriteTokens(dir / "t", vocab_size, {{0, last, 1}, {}, {2}, {3, 4}});
    const auto file = TokenFile::Open(dir / "t");
    ASSERT_TRUE(file.ok()) << file.status();
    const TokenFileView& view = file->view();
    EXPECT_EQ(view.vocab_size, vocab_size);
    EXPECT_EQ(view.bytes_per_token, width);
    EXPECT_EQ(view.num_documents, 3);
    EXPECT_EQ(view.num_tokens, 6);
    EXPECT_EQ(view.tokenizer_fingerprint, "bytes");
    EXPECT_EQ(view.checksum.size(), 32u);
    EXPECT_EQ(std::vector<uint64_t>(view.offsets, view.offsets + 4),
              (std::vector<uint64_t>{0, 3, 4, 6}));
    int32_t second = 0;
    std::memcpy(&second, view.tokens + width, width);
    EXPECT_EQ(second, last);
    EXPECT_TRUE(IsTokenFile(dir / "t"));
  }
}

TEST(TokenFile, WriterErrors) {
  const TempDir dir;
  auto writer = TokenFileWriter::Create(dir / "t", 300, "x");
  ASSERT_TRUE(writer.ok());
  EXPECT_ERROR(writer->Commit(), "no document has a token");
  EXPECT_ERROR(writer->AddDocument({1, 300}),
               "token 1 of document 0 has id 300 in a vocabulary of 300");
  EXPECT_ERROR(writer->AddDocument({-1}), "has id -1");
  EXPECT_EQ(writer->num_tokens(), 0);
  EXPECT_FALSE(std::filesystem::exists(dir / "t"));
}

TEST(TokenFile, WhatIsNoTokenFile) {
  const TempDir dir;
  EXPECT_FALSE(IsTokenFile(dir / "none"));
  EXPECT_FALSE(IsTokenFile(dir.path()));
  EXPECT_FALSE(IsTokenFile(dir.Write("text", "some text")));
  EXPECT_ERROR(TokenFile::Open(dir / "text").status(), "is not a token file");
  EXPECT_ERROR(Parse(""), "is not a token file");
}

class DamagedTokenFile : public testing::Test {
 protected:
  void SetUp() override {
    WriteTokens(dir_ / "t", 300, {{1, 2, 299}, {4, 5}});
    good_ = Slurp(dir_ / "t");
    // 5 tokens of 2 bytes, padded to 16, and 3 offsets.
    ASSERT_EQ(good_.size(), 192u + 16 + 24);
    ASSERT_STATUS_OK(Parse(good_));
  }

  // Parses with `value` at `offset` and checksums that fit.
  template <typename T>
  absl::Status With(size_t offset, T value) {
    std::string bytes = good_;
    Put(&bytes, offset, value);
    Reseal(&bytes);
    return Parse(bytes);
  }

  TempDir dir_;
  std::string good_;
};

TEST_F(DamagedTokenFile, EveryTruncation) {
  for (size_t n = 0; n < good_.size(); ++n) {
    EXPECT_FALSE(Parse(good_.substr(0, n)).ok()) << n;
  }
  EXPECT_ERROR(Parse(good_.substr(0, 200)), "(truncated)");
  EXPECT_ERROR(Parse(good_ + "x"), "has 233 bytes");
}

TEST_F(DamagedTokenFile, EveryFlippedByte) {
  for (size_t i = 0; i < good_.size(); ++i) {
    std::string bytes = good_;
    bytes[i] = static_cast<char>(bytes[i] ^ 0x40);
    EXPECT_FALSE(Parse(bytes).ok()) << i;
  }
}

TEST_F(DamagedTokenFile, HeaderFields) {
  EXPECT_STATUS_OK(With<uint32_t>(8, 1));
  EXPECT_ERROR(With<uint32_t>(8, 2), "version 2");
  EXPECT_ERROR(With<uint32_t>(12, 4), "4 bytes a token do not fit");
  EXPECT_ERROR(With<uint64_t>(16, 0), "a vocabulary of 0");
  EXPECT_ERROR(With<uint64_t>(16, uint64_t{1} << 40), "out of range");
  EXPECT_ERROR(With<uint64_t>(24, 0), "impossible");
  EXPECT_ERROR(With<uint64_t>(24, 6), "impossible");
  EXPECT_ERROR(With<uint64_t>(24, 3), "has 232 bytes where");
  EXPECT_ERROR(With<uint64_t>(32, 50), "has 232 bytes where");
  EXPECT_ERROR(With<char>(47, 'x'), "must be zero");
  EXPECT_ERROR(With<uint64_t>(176, 1), "must be zero");
}

// Sizes whose layout wraps around 64 bits, some to the file's own size.
TEST_F(DamagedTokenFile, Overflow) {
  for (const uint64_t n : {~uint64_t{0}, ~uint64_t{0} - 7, uint64_t{1} << 63,
                           (uint64_t{1} << 63) - 1, (uint64_t{1} << 63) - 10,
                           (uint64_t{1} << 63) + 5, (uint64_t{1} << 62) + 1,
                           uint64_t{1} << 61, (uint64_t{1} << 61) + 2}) {
    EXPECT_FALSE(With<uint64_t>(24, n).ok()) << n;
    EXPECT_FALSE(With<uint64_t>(32, n).ok()) << n;
    std::string bytes = good_;
    Put(&bytes, 24, n);
    Put(&bytes, 32, n);
    Reseal(&bytes);
    EXPECT_FALSE(Parse(bytes).ok()) << n;
    // One byte a token: the product does not overflow, the sum does.
    Put(&bytes, 12, uint32_t{1});
    Put(&bytes, 16, uint64_t{256});
    Reseal(&bytes);
    EXPECT_FALSE(Parse(bytes).ok()) << n;
  }
}

TEST_F(DamagedTokenFile, Payload) {
  const size_t offsets = 192 + 16;
  EXPECT_ERROR(With<uint64_t>(offsets, 1), "does not begin at token 0");
  EXPECT_ERROR(With<uint64_t>(offsets + 8, 0), "document 0 runs from");
  EXPECT_ERROR(With<uint64_t>(offsets + 8, 5), "document 1 runs from token 5");
  EXPECT_ERROR(With<uint64_t>(offsets + 8, ~uint64_t{0}), "document 1 runs");
  EXPECT_ERROR(With<uint64_t>(offsets + 16, 6), "ends at token 6 of 5");
  EXPECT_ERROR(With<uint16_t>(192 + 6, 300),
               "token 3 has id 300 in a vocabulary of 300");
}

}  // namespace
}  // namespace carry
