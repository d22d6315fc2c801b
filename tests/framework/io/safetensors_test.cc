#include "framework/io/safetensors.h"

#include <cstring>

#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

std::string Prefix(uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

std::string WithHeader(const std::string& header, const std::string& data) {
  return Prefix(header.size()) + header + data;
}

// One F32 tensor [2] with these fields in place of the right ones.
std::string OneTensor(const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return WithHeader("{\"w\":{\"dtype\":" + dtype + ",\"shape\":" + shape +
                        ",\"data_offsets\":" + offsets + "}}",
                    std::string(8, 'x'));
}

absl::Status Parse(const std::string& bytes) {
  return ParseSafetensors(bytes, "some.safetensors").status();
}

TEST(Safetensors, WritesAndReadsBack) {
  const TempDir dir;
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<BFloat16> b = {ToBFloat16(1.5f), ToBFloat16(-2),
                                   ToBFloat16(0)};
  const std::vector<double> c = {0.5};
  const std::vector<int64_t> d = {-7, 8};
  const std::vector<uint8_t> e = {255};
  ASSERT_STATUS_OK(WriteSafetensors(
      dir / "f",
      {{"u", DType::kU8, {1}, e.data()},
       {"a.weight", DType::kF32, {2, 3}, a.data()},
       {"b \"quoted\" \xc3\xa9", DType::kBF16, {3, 1}, b.data()},
       {"scalar", DType::kF64, {}, c.data()},
       {"i", DType::kI64, {2}, d.data()},
       {"empty", DType::kF32, {0, 5}, nullptr}},
      {{"step", "20"}}));
  const auto file = SafetensorsFile::Open(dir / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ(file->tensors().size(), 6u);
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->metadata().at("step"), "20");
  const TensorView* view = file->Find("a.weight");
  ASSERT_NE(view, nullptr);
  EXPECT_EQ(view->dtype, DType::kF32);
  EXPECT_EQ(view->shape, (std::vector<int64_t>{2, 3}));
  ASSERT_EQ(view->bytes, 24);
  std::vector<float> floats(6);
  ASSERT_STATUS_OK(CopyAsFloat(*view, absl::MakeSpan(floats)));
  EXPECT_EQ(floats, a);
  floats.resize(3);
  ASSERT_STATUS_OK(CopyAsFloat(*file->Find("b \"quoted\" \xc3\xa9"),
                               absl::MakeSpan(floats)));
  EXPECT_EQ(floats, (std::vector<float>{1.5f, -2, 0}));
  floats.resize(1);
  ASSERT_STATUS_OK(CopyAsFloat(*file->Find("scalar"), absl::MakeSpan(floats)));
  EXPECT_EQ(floats[0], 0.5f);
  EXPECT_TRUE(file->Find("scalar")->shape.empty());
  floats.resize(2);
  EXPECT_ERROR(CopyAsFloat(*file->Find("i"), absl::MakeSpan(floats)), "I64");
  EXPECT_EQ(file->Find("empty")->bytes, 0);
  EXPECT_EQ(file->Find("nothing"), nullptr);
  for (const TensorView& t : file->tensors()) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(t.data) % SizeOf(t.dtype), 0u)
        << t.name;
  }
}

TEST(Safetensors, NoTensorsAtAll) {
  const TempDir dir;
  ASSERT_STATUS_OK(WriteSafetensors(dir / "f", {}));
  const auto file = SafetensorsFile::Open(dir / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(file->tensors().empty());
}

TEST(Safetensors, UnpaddedHeaderAndSpacesAreFine) {
  EXPECT_TRUE(Parse(WithHeader("{}", "")).ok());
  const std::string file = WithHeader(
      " { \"w\" : {\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]} } ",
      "12345678");
  const auto tensors = ParseSafetensors(file, "p");
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  EXPECT_EQ(std::memcmp(tensors->at(0).data, "12345678", 8), 0);
}

TEST(Safetensors, EveryTruncationIsAnError) {
  const TempDir dir;
  const float x[5] = {};
  ASSERT_STATUS_OK(WriteSafetensors(
      dir / "f", {{"a", DType::kF32, {3}, x}, {"b", DType::kBF16, {2}, x}}));
  const std::string bytes = Slurp(dir / "f");
  ASSERT_TRUE(Parse(bytes).ok());
  for (size_t n = 0; n < bytes.size(); ++n) {
    EXPECT_FALSE(Parse(bytes.substr(0, n)).ok()) << n;
  }
  EXPECT_ERROR(Parse(bytes + "x"), "tensors end at byte");
}

// A flipped byte is an error or another file that is in itself whole (a
// letter of a name, a number in the data); it never reads past the end.
TEST(Safetensors, EveryFlippedHeaderByteIsSafe) {
  const TempDir dir;
  const float x[5] = {};
  ASSERT_STATUS_OK(WriteSafetensors(
      dir / "f", {{"a", DType::kF32, {3}, x}, {"b", DType::kBF16, {2}, x}}));
  const std::string good = Slurp(dir / "f");
  int refused = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    for (const int flip : {0x01, 0x10, 0x80, 0xff}) {
      std::string bytes = good;
      bytes[i] = static_cast<char>(bytes[i] ^ flip);
      const auto tensors = ParseSafetensors(bytes, "p");
      if (!tensors.ok()) {
        ++refused;
        continue;
      }
      int64_t total = 0;
      for (const TensorView& t : *tensors) total += t.bytes;
      EXPECT_EQ(total, 16);
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(Safetensors, HeaderLengths) {
  EXPECT_ERROR(Parse(""), "fewer than the 8");
  EXPECT_ERROR(Parse(Prefix(0)), "not valid JSON: it is empty");
  EXPECT_ERROR(Parse(Prefix(3) + "{}"), "but the file ends at byte 10");
  EXPECT_ERROR(Parse(Prefix(100'000'001) + "{}"), "more than 100000000");
  EXPECT_ERROR(Parse(Prefix(~uint64_t{0}) + "{}"), "18446744073709551615");
  EXPECT_ERROR(Parse(Prefix(~uint64_t{0} - 7) + "{}"), "more than 100000000");
}

TEST(Safetensors, HeaderThatIsNotWhatItShouldBe) {
  EXPECT_ERROR(Parse(WithHeader("{\"a\":", "")), "not valid JSON at byte");
  EXPECT_ERROR(Parse(WithHeader("[]", "")), "not an object");
  EXPECT_ERROR(Parse(WithHeader("7", "")), "not an object");
  EXPECT_ERROR(Parse(WithHeader("{\"\xff\":1}", "")), "not valid JSON");
  EXPECT_ERROR(Parse(WithHeader("{\"w\":1}", "")), "not described");
  EXPECT_ERROR(Parse(WithHeader("{\"w\":{}}", "")), "has no \"dtype\"");
  EXPECT_ERROR(Parse(WithHeader(std::string(100000, '['), "")), "nested");
  EXPECT_ERROR(Parse(WithHeader("{\"__metadata__\":3}", "")), "__metadata__");
  EXPECT_ERROR(Parse(WithHeader("{\"__metadata__\":{\"a\":3}}", "")),
               "not a string");
  const std::string w =
      "\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}";
  EXPECT_ERROR(Parse(WithHeader("{" + w + "," + w + "}", "1234")),
               "key \"w\" comes twice");
  EXPECT_ERROR(
      Parse(WithHeader("{\"w\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":"
                       "[1],\"data_offsets\":[0,4]}}",
                       "1234")),
      "key \"dtype\" comes twice");
  EXPECT_ERROR(
      Parse(WithHeader("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"x\":0,"
                       "\"data_offsets\":[0,4]}}",
                       "1234")),
      "keys beyond");
}

TEST(Safetensors, DTypes) {
  EXPECT_TRUE(Parse(OneTensor("\"F32\"", "[2]", "[0,8]")).ok());
  const absl::Status f16 = Parse(OneTensor("\"F16\"", "[4]", "[0,8]"));
  EXPECT_TRUE(absl::IsUnimplemented(f16));
  EXPECT_ERROR(f16, "has dtype F16; convert it");
  EXPECT_ERROR(Parse(OneTensor("\"f32\"", "[2]", "[0,8]")), "unknown dtype");
  EXPECT_ERROR(Parse(OneTensor("4", "[2]", "[0,8]")), "not a string");
}

TEST(Safetensors, Shapes) {
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "2", "[0,8]")), "not an array");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2.0]", "[0,8]")), "whole number");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[-2]", "[0,8]")), "whole number");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[\"2\"]", "[0,8]")), "whole num");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[3]", "[0,8]")), "needs 12");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[1]", "[0,8]")), "needs 4");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[18446744073709551615]", "[0,8]")),
               "more than 2^63 - 1");
  EXPECT_ERROR(
      Parse(OneTensor("\"F32\"", "[99999999999999999999999]", "[0,8]")),
      "whole number");
  // 4 * 2^31 * 2^31 wraps to 0 in 64 bits, and the next to 8.
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2147483648,2147483648]", "[0,0]")),
               "more than 2^63 - 1 bytes");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2,4611686018427387905]", "[0,8]")),
               "more than 2^63 - 1 bytes");
}

TEST(Safetensors, Offsets) {
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2]", "[0]")), "not two numbers");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2]", "[8,0]")), "has offsets");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2]", "[1,9]")), "has offsets");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2]", "[-8,0]")), "whole number");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[2]",
                               "[18446744073709551608,18446744073709551615]")),
               "more than 2^63 - 1");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[1]", "[4,8]")), "a hole");
  EXPECT_ERROR(Parse(OneTensor("\"F32\"", "[1]", "[0,4]")),
               "end at byte 4 of the data, which has 8");
  const std::string two =
      "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}";
  EXPECT_ERROR(Parse(WithHeader(two, std::string(12, 'x'))), "overlap");
}

class SafetensorsFolderTest : public testing::Test {
 protected:
  void Shard(const std::string& name, const std::vector<std::string>& tensors) {
    std::vector<TensorToWrite> list;
    for (const std::string& t : tensors) {
      list.push_back({t, DType::kF32, {1}, &value_});
      ++value_;
    }
    ASSERT_STATUS_OK(WriteSafetensors(dir_ / name, list));
  }
  void Index(const std::string& map) {
    dir_.Write(
        "model.safetensors.index.json",
        "{\"metadata\":{\"total_size\":12},\"weight_map\":{" + map + "}}");
  }
  absl::Status Open() { return SafetensorsFolder::Open(dir_.path()).status(); }

  TempDir dir_;
  float value_ = 0;
};

TEST_F(SafetensorsFolderTest, OneFileOrShards) {
  EXPECT_TRUE(absl::IsNotFound(Open()));
  EXPECT_ERROR(Open(), "neither model.safetensors nor");
  Shard("model-00001-of-00002.safetensors", {"b"});
  Shard("model-00002-of-00002.safetensors", {"a", "c"});
  Index(
      "\"a\":\"model-00002-of-00002.safetensors\","
      "\"b\":\"model-00001-of-00002.safetensors\","
      "\"c\":\"model-00002-of-00002.safetensors\"");
  const auto folder = SafetensorsFolder::Open(dir_.path());
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_EQ(folder->Names(), (std::vector<std::string>{"a", "b", "c"}));
  float b = 0;
  ASSERT_STATUS_OK(CopyAsFloat(*folder->Find("b"), absl::MakeSpan(&b, 1)));
  EXPECT_EQ(b, 1);  // The value at the time that its shard was written.
  EXPECT_EQ(folder->Find("d"), nullptr);

  Shard("model.safetensors", {"single"});
  const auto single = SafetensorsFolder::Open(dir_.path());
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_EQ(single->Names(), std::vector<std::string>{"single"});
}

TEST_F(SafetensorsFolderTest, DamagedIndexes) {
  Shard("s1", {"a"});
  Shard("s2", {"b"});
  Index("\"a\":\"s1\",\"b\":\"s2\"");
  EXPECT_TRUE(Open().ok()) << Open();
  Index("\"a\":\"s1\",\"b\":\"s3\"");
  EXPECT_TRUE(absl::IsNotFound(Open()));
  Index("\"a\":\"s1\",\"b\":\"s1\"");
  EXPECT_ERROR(Open(), "lacks tensor \"b\"");
  Shard("s2", {"b", "c"});
  Index("\"a\":\"s1\",\"b\":\"s2\"");
  EXPECT_ERROR(Open(), "does not list");
  Shard("s2", {"a", "b"});
  EXPECT_ERROR(Open(), "puts elsewhere");
  Index("\"a\":\"../s1\"");
  EXPECT_ERROR(Open(), "not the name of a file in the same folder");
  Index("\"a\":\"..\"");
  EXPECT_ERROR(Open(), "not the name of a file in the same folder");
  Index("\"a\":3");
  EXPECT_ERROR(Open(), "no file name under \"a\"");
  Index("\"a\":\"s1\",\"a\":\"s2\"");
  EXPECT_ERROR(Open(), "comes twice");
  dir_.Write("model.safetensors.index.json", "{}");
  EXPECT_ERROR(Open(), "no object \"weight_map\"");
  dir_.Write("model.safetensors.index.json", "");
  EXPECT_ERROR(Open(), "it is empty");
}

}  // namespace
}  // namespace carry
