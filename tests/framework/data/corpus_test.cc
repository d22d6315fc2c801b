#include "framework/data/corpus.h"

#include <cctype>

#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

// Takes text only; ids are bytes + 1000, but letters in upper case vanish.
class FakeTokenizer : public Tokenizer {
 public:
  int64_t vocab_size() const override { return size; }
  const std::string& fingerprint() const override { return fingerprint_; }
  bool text_only() const override { return true; }
  absl::StatusOr<std::vector<int32_t>> Encode(
      absl::string_view bytes) const override {
    std::vector<int32_t> ids;
    for (const char c : bytes) {
      if (c == '!') return absl::InvalidArgumentError("no exclamations");
      if (!std::isupper(static_cast<unsigned char>(c))) {
        ids.push_back(1000 + static_cast<uint8_t>(c));
      }
    }
    return ids;
  }
  absl::StatusOr<std::string> Decode(absl::Span<const int32_t>) const override {
    return absl::UnimplementedError("");
  }
  std::unique_ptr<StreamDecoder> NewStreamDecoder() const override {
    return nullptr;
  }

  int64_t size = 1256;

 private:
  std::string fingerprint_ = "fake";
};

class CorpusTest : public testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<const Corpus>> Open(
      const std::vector<std::string>& names, const Tokenizer& tokenizer) {
    std::vector<std::string> paths;
    paths.reserve(names.size());
    for (const std::string& name : names) paths.push_back(dir_ / name);
    const auto files = ExpandFiles(paths, {});
    if (!files.ok()) return files.status();
    return Corpus::Open(*files, tokenizer);
  }
  void Tokens(const std::string& name, const Tokenizer& tokenizer,
              const std::vector<std::vector<int32_t>>& documents) {
    auto writer = TokenFileWriter::Create(dir_ / name, tokenizer.vocab_size(),
                                          tokenizer.fingerprint());
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (const auto& ids : documents) {
      ASSERT_STATUS_OK(writer->AddDocument(ids));
    }
    ASSERT_STATUS_OK(writer->Commit());
  }
  static std::vector<int32_t> Read(const Corpus& corpus, int64_t document) {
    std::vector<int32_t> ids(corpus.DocumentLength(document));
    corpus.ReadTokens(document, 0, static_cast<int64_t>(ids.size()),
                      ids.data());
    return ids;
  }

  TempDir dir_;
  std::unique_ptr<Tokenizer> bytes_ = NewByteTokenizer();
  FakeTokenizer fake_;
};

TEST_F(CorpusTest, BytesOfPlainFiles) {
  std::string large(1 << 20, '\0');
  for (size_t i = 0; i < large.size(); ++i) {
    large[i] = static_cast<char>(i * 7 + i / 256);
  }
  dir_.Write("b", large);
  dir_.Write("a", "hello\xff");
  dir_.Write("c", "x");
  const auto corpus = Open({"a", "b", "c"}, *bytes_);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  const Corpus& c = **corpus;
  EXPECT_EQ(c.num_documents(), 3);
  EXPECT_EQ(c.num_tokens(), 7 + (1 << 20));
  EXPECT_EQ(c.vocab_size(), 256);
  EXPECT_EQ(Read(c, 0), (std::vector<int32_t>{'h', 'e', 'l', 'l', 'o', 255}));
  EXPECT_EQ(c.DocumentPath(1), dir_ / "b");
  int32_t part[3];
  c.ReadTokens(1, 999999, 3, part);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(part[i], static_cast<uint8_t>(large[999999 + i]));
  }
  EXPECT_EQ(Read(c, 2), std::vector<int32_t>{'x'});
}

TEST_F(CorpusTest, TextIsEncodedAndEmptyDocumentsVanish) {
  dir_.Write("a", "ab");
  dir_.Write("b", "ABC");
  dir_.Write("c", "cD");
  const auto corpus = Open({"a", "b", "c"}, fake_);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ((*corpus)->num_documents(), 2);
  EXPECT_EQ(Read(**corpus, 0), (std::vector<int32_t>{1097, 1098}));
  EXPECT_EQ(Read(**corpus, 1), (std::vector<int32_t>{1099}));
  EXPECT_EQ((*corpus)->DocumentPath(1), dir_ / "c");
}

TEST_F(CorpusTest, TokenFiles) {
  Tokens("t1", fake_, {{1, 2, 3}, {4}});
  Tokens("t2", fake_, {{1255}});
  const auto corpus = Open({"t1", "t2"}, fake_);
  ASSERT_TRUE(corpus.ok()) << corpus.status();
  EXPECT_EQ((*corpus)->num_documents(), 3);
  EXPECT_EQ((*corpus)->num_tokens(), 5);
  EXPECT_EQ(Read(**corpus, 0), (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(Read(**corpus, 1), (std::vector<int32_t>{4}));
  EXPECT_EQ(Read(**corpus, 2), (std::vector<int32_t>{1255}));
  int32_t two = 0;
  (*corpus)->ReadTokens(0, 1, 1, &two);
  EXPECT_EQ(two, 2);
}

TEST_F(CorpusTest, TheDigestFollowsTheContent) {
  dir_.Write("x/a", "one");
  dir_.Write("x/b", "two");
  const auto digest = [&](const std::string& name, const Tokenizer& t) {
    const auto corpus = Open({name}, t);
    EXPECT_TRUE(corpus.ok()) << corpus.status();
    return corpus.ok() ? (*corpus)->digest() : "";
  };
  const std::string base = digest("x", *bytes_);
  EXPECT_EQ(base.size(), 32u);
  EXPECT_EQ(digest("x", *bytes_), base);
  dir_.Write("moved/a", "one");
  dir_.Write("moved/b", "two");
  EXPECT_EQ(digest("moved", *bytes_), base);
  EXPECT_NE(digest("x", fake_), base);
  dir_.Write("x/b", "twO");
  EXPECT_NE(digest("x", *bytes_), base);
  // The same bytes, cut elsewhere.
  dir_.Write("x/a", "onet");
  dir_.Write("x/b", "wo");
  EXPECT_NE(digest("x", *bytes_), base);
  Tokens("t", *bytes_, {{1, 2}, {3}});
  const std::string tokens = digest("t", *bytes_);
  Tokens("t", *bytes_, {{1}, {2, 3}});
  EXPECT_NE(digest("t", *bytes_), tokens);
}

TEST_F(CorpusTest, Errors) {
  Tokens("t", fake_, {{1}});
  dir_.Write("plain", "text");
  EXPECT_ERROR(Open({"t", "plain"}, fake_).status(), "are mixed (1 of 2");
  EXPECT_ERROR(Open({"t"}, *bytes_).status(),
               "was made with the tokenizer fake of 1256 ids");
  FakeTokenizer grown;
  grown.size = 1257;
  EXPECT_ERROR(Open({"t"}, grown).status(), "the recipe's is fake of 1257");
  dir_.Write("binary", std::string("ab\0c", 4));
  EXPECT_ERROR(Open({"binary"}, fake_).status(), "byte 2 is NUL");
  EXPECT_TRUE(Open({"binary"}, *bytes_).ok());
  dir_.Write("odd", "hm!");
  EXPECT_ERROR(Open({"plain", "odd"}, fake_).status(),
               dir_ / "odd: no exclamations");
  dir_.Write("upper", "UPPER");
  EXPECT_ERROR(Open({"upper"}, fake_).status(), "hold no token");
  EXPECT_ERROR(Corpus::Open({{dir_ / "gone", "gone", 1}}, *bytes_).status(),
               "gone");
  const std::string whole = Slurp(dir_ / "t");
  dir_.Write("t", whole.substr(0, whole.size() - 1));
  EXPECT_ERROR(Open({"t"}, fake_).status(), "(truncated)");
}

}  // namespace
}  // namespace carry
