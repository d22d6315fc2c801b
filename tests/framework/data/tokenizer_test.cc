#include "framework/data/tokenizer.h"

#include <google/protobuf/text_format.h>

#include "recipes/schema/recipe.pb.h"
#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

// Words enough to learn pieces from, with lines, indents and accents.
std::string Text(int lines) {
  const std::string syllables[] = {"sta", "te",          "spa",         "ce",
                                   "car", "ry",          "caf\xc3\xa9", "to",
                                   "ken", "\xe2\x82\xac"};
  std::string text;
  for (int i = 0; i < lines; ++i) {
    text += std::string(i % 3 * 2, ' ');
    for (int j = 0; j < 9; ++j) {
      text += syllables[(i * 7 + j * j * 3) % 10] + syllables[(i + j) % 10];
      if (j % 4 != 3) text += " ";
    }
    text += std::to_string(i * 37) + "\n";
  }
  return text;
}

std::string StreamAll(const Tokenizer& tokenizer,
                      const std::vector<int32_t>& ids) {
  const auto decoder = tokenizer.NewStreamDecoder();
  std::string text;
  for (const int32_t id : ids) text += decoder->Push(id);
  return text + decoder->Finish();
}

TEST(ByteTokenizer, RoundTrip) {
  const auto t = NewByteTokenizer();
  EXPECT_EQ(t->vocab_size(), 256);
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  const auto ids = t->Encode(all);
  ASSERT_TRUE(ids.ok());
  for (int i = 0; i < 256; ++i) EXPECT_EQ((*ids)[i], i);
  EXPECT_EQ(*t->Decode(*ids), all);
  EXPECT_EQ(StreamAll(*t, *ids), all);
  EXPECT_TRUE(t->Encode("")->empty());
  EXPECT_ERROR(t->Decode({1, 256}).status(), "256 is not a byte");
  EXPECT_ERROR(t->Decode({-1}).status(), "-1 is not a byte");
}

class SentencePieceTest : public testing::Test {
 protected:
  void SetUp() override {
    options_.vocab_size = 480;
    text_ = Text(400);
    model_ = dir_ / "m.model";
    ASSERT_STATUS_OK(
        TrainSentencePiece({dir_.Write("a.txt", text_)}, options_, model_));
    auto tokenizer = LoadSentencePiece(model_);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(*tokenizer);
  }

  TempDir dir_;
  SentencePieceOptions options_;
  std::string text_;
  std::string model_;
  std::unique_ptr<Tokenizer> tokenizer_;
};

TEST_F(SentencePieceTest, RoundTripsAllValidUtf8) {
  EXPECT_LE(tokenizer_->vocab_size(), 480);
  EXPECT_TRUE(tokenizer_->text_only());
  for (const std::string& text :
       {text_, std::string("  two  spaces \n\n\ttab"), std::string(" "),
        std::string("\n"), std::string("x"), std::string("caf\xc3\xa9 x"),
        std::string("\xf0\x9f\x90\x8d snake \xe4\xb8\xad\xe6\x96\x87")}) {
    const auto ids = tokenizer_->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    for (const int32_t id : *ids) {
      ASSERT_GE(id, 0);
      ASSERT_LT(id, tokenizer_->vocab_size());
    }
    EXPECT_EQ(*tokenizer_->Decode(*ids), text);
    EXPECT_EQ(StreamAll(*tokenizer_, *ids), text);
  }
  // It did learn something.
  EXPECT_LT(tokenizer_->Encode(text_)->size(), text_.size() / 3);
}

// Text beyond the size at which it is cut.
TEST_F(SentencePieceTest, LongTextsRoundTrip) {
  std::string lines;
  while (lines.size() < (9 << 17)) lines += text_;
  std::string one_line;
  for (int i = 0; i < 360000; ++i) one_line += "\xe2\x82\xac";
  for (const std::string& text : {lines, one_line}) {
    const auto ids = tokenizer_->Encode(text);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_TRUE(*tokenizer_->Decode(*ids) == text);
  }
}

TEST_F(SentencePieceTest, StreamsWholeCharacters) {
  const auto ids = tokenizer_->Encode("a\xf0\x9f\x90\x8d");
  ASSERT_TRUE(ids.ok());
  const auto decoder = tokenizer_->NewStreamDecoder();
  for (const int32_t id : *ids) {
    const std::string part = decoder->Push(id);
    EXPECT_TRUE(part.empty() || part == "a" || part == "\xf0\x9f\x90\x8d")
        << part;
  }
  EXPECT_EQ(decoder->Finish(), "");
}

// Any ids, such as those of an untrained model, stream to what Decode gives.
TEST_F(SentencePieceTest, AnyIdsStream) {
  uint64_t state = 1;
  for (int round = 0; round < 200; ++round) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 20; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      // Half of them byte pieces, which rarely make a character.
      const int64_t range = i % 2 == 0 ? 260 : tokenizer_->vocab_size();
      ids.push_back(static_cast<int32_t>((state >> 33) % range));
    }
    EXPECT_EQ(StreamAll(*tokenizer_, ids), *tokenizer_->Decode(ids));
  }
}

TEST_F(SentencePieceTest, TheSameTextTrainsTheSameModel) {
  ASSERT_STATUS_OK(
      TrainSentencePiece({dir_ / "a.txt"}, options_, dir_ / "again.model"));
  EXPECT_EQ(Slurp(dir_ / "again.model"), Slurp(model_));
  EXPECT_EQ((*LoadSentencePiece(dir_ / "again.model"))->fingerprint(),
            tokenizer_->fingerprint());
  options_.vocab_size = 450;
  ASSERT_STATUS_OK(
      TrainSentencePiece({dir_ / "a.txt"}, options_, dir_ / "other.model"));
  EXPECT_NE((*LoadSentencePiece(dir_ / "other.model"))->fingerprint(),
            tokenizer_->fingerprint());
}

TEST_F(SentencePieceTest, Errors) {
  EXPECT_ERROR(
      tokenizer_->Decode({static_cast<int32_t>(tokenizer_->vocab_size())})
          .status(),
      "outside the vocabulary");
  EXPECT_ERROR(tokenizer_->Decode({-1}).status(), "outside the vocabulary");
  EXPECT_ERROR(LoadSentencePiece(dir_ / "none").status(), "check the path");
  dir_.Write("bad", "this is not a model");
  EXPECT_ERROR(LoadSentencePiece(dir_ / "bad").status(),
               "is not a SentencePiece model");
  dir_.Write("empty", "");
  EXPECT_ERROR(LoadSentencePiece(dir_ / "empty").status(),
               "is not a SentencePiece model");
  const std::string model = Slurp(model_);
  for (size_t n = 1; n < model.size(); n += 997) {
    dir_.Write("cut", model.substr(0, n));
    const auto cut = LoadSentencePiece(dir_ / "cut");
    if (cut.ok()) {
      EXPECT_NE((*cut)->fingerprint(), tokenizer_->fingerprint());
    }
  }
}

TEST_F(SentencePieceTest, TrainingErrors) {
  EXPECT_ERROR(TrainSentencePiece({dir_ / "none"}, options_, dir_ / "x"),
               "none");
  dir_.Write("bin", std::string("abc\0def", 7));
  EXPECT_ERROR(TrainSentencePiece({dir_ / "bin"}, options_, dir_ / "x"),
               "byte 3 is NUL");
  dir_.Write("little", "abc\n");
  EXPECT_ERROR(TrainSentencePiece({dir_ / "little"}, options_, dir_ / "x"),
               "cannot train");
  options_.model_type = "word";
  EXPECT_ERROR(TrainSentencePiece({dir_ / "a.txt"}, options_, dir_ / "x"),
               "choose bpe or unigram");
  options_.model_type = "bpe";
  options_.vocab_size = 100;
  EXPECT_ERROR(TrainSentencePiece({dir_ / "a.txt"}, options_, dir_ / "x"),
               "out of range");
  EXPECT_FALSE(std::filesystem::exists(dir_ / "x"));
}

// Distributions ship the library with Protocol Buffers of another version
// inside; sharing one symbol with ours ends in a crash.
TEST_F(SentencePieceTest, LivesBesideProtocolBuffers) {
  config::Recipe recipe;
  ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(
      "name: 'x' data { tokenizer { sentencepiece: 'm.model' } }", &recipe));
  config::Recipe copy;
  ASSERT_TRUE(copy.ParseFromString(recipe.SerializeAsString()));
  ASSERT_STATUS_OK(
      TrainSentencePiece({dir_ / "a.txt"}, options_, dir_ / "again.model"));
  EXPECT_EQ(copy.DebugString(), recipe.DebugString());
}

TEST(CheckIsText, NamesTheByte) {
  EXPECT_TRUE(CheckIsText("text\n\xff", "p").ok());
  EXPECT_ERROR(CheckIsText(std::string("ab\0", 3), "p"),
               "p is not text: byte 2 is NUL");
}

}  // namespace
}  // namespace carry
