#include "framework/io/checkpoint_folder.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "framework/io/file.h"
#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

class CheckpointFolderTest : public testing::Test {
 protected:
  // Saves a checkpoint of two files.
  absl::Status Save(int64_t step, const std::string& weights = "weights") {
    auto writer = CheckpointWriter::Create(run_, step, "carry test");
    if (!writer.ok()) return writer.status();
    absl::Status s = writer->AddFile("model.safetensors", weights);
    if (s.ok()) s = writer->AddFile("config.json", "{}");
    if (!s.ok()) return s;
    const auto path = writer->Commit();
    if (!path.ok()) return path.status();
    EXPECT_EQ(*path, run_ + "/" + CheckpointName(step));
    return absl::OkStatus();
  }
  std::string Newest() {
    const auto found = FindNewestCheckpoint(run_);
    return found.ok() ? std::filesystem::path(found->path).filename().string()
                      : found.status().ToString();
  }
  std::string Names() {
    std::string all;
    const auto names = ListDirectory(run_);
    EXPECT_TRUE(names.ok()) << names.status();
    for (const std::string& name : *names) {
      all += (all.empty() ? "" : " ") + name;
    }
    return all;
  }

  TempDir dir_;
  std::string run_ = dir_ / "runs/one";
};

TEST_F(CheckpointFolderTest, CommitsAndVerifies) {
  ASSERT_STATUS_OK(Save(20));
  EXPECT_EQ(Names(), "step-000020");
  const auto manifest = VerifyCheckpoint(run_ + "/step-000020");
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_EQ(manifest->step, 20);
  EXPECT_EQ(manifest->program, "carry test");
  ASSERT_EQ(manifest->files.size(), 2u);
  EXPECT_EQ(manifest->files[0].name, "config.json");
  EXPECT_EQ(manifest->files[1].name, "model.safetensors");
  EXPECT_EQ(manifest->files[1].size, 7);
  EXPECT_EQ(Slurp(run_ + "/step-000020/model.safetensors"), "weights");
}

// The value that the hash's author publishes for no bytes.
TEST_F(CheckpointFolderTest, TheChecksumIsXxh3) {
  dir_.Write("empty", "");
  const auto file = DescribeFile(dir_.path(), "empty");
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->checksum, "99aa06d3014798d86001c324468d497f");
}

TEST_F(CheckpointFolderTest, NothingShowsBeforeCommit) {
  ASSERT_STATUS_OK(Save(1));
  {
    auto writer = CheckpointWriter::Create(run_, 2, "carry test");
    ASSERT_TRUE(writer.ok());
    ASSERT_STATUS_OK(writer->AddFile("a", "1"));
    EXPECT_EQ(Newest(), "step-000001");
    EXPECT_EQ(*ListCheckpoints(run_), std::vector<int64_t>{1});
  }
  EXPECT_EQ(Names(), "step-000001");
}

TEST_F(CheckpointFolderTest, FilesOfOthers) {
  auto writer = CheckpointWriter::Create(run_, 3, "carry test");
  ASSERT_TRUE(writer.ok());
  ASSERT_STATUS_OK(WriteFileAtomically(writer->PathOf("mine"), "12"));
  ASSERT_STATUS_OK(writer->AddWritten("mine"));
  ASSERT_STATUS_OK(WriteFileAtomically(writer->PathOf("rank-1"), "345"));
  auto described = DescribeFile(writer->folder(), "rank-1");
  ASSERT_TRUE(described.ok()) << described.status();
  CheckpointFile wrong = *described;
  wrong.size = 4;
  EXPECT_ERROR(writer->AddDescribed(wrong), "has 3 bytes where its writer");
  ASSERT_STATUS_OK(writer->AddDescribed(*described));
  EXPECT_ERROR(writer->AddWritten("rank-2"), "rank-2");
  ASSERT_TRUE(writer->Commit().ok());
  EXPECT_EQ(Newest(), "step-000003");
}

TEST_F(CheckpointFolderTest, SavingAStepAgainReplacesIt) {
  ASSERT_STATUS_OK(Save(5, "old"));
  ASSERT_STATUS_OK(Save(5, "new"));
  EXPECT_EQ(Names(), "step-000005");
  EXPECT_EQ(Newest(), "step-000005");
  EXPECT_EQ(Slurp(run_ + "/step-000005/model.safetensors"), "new");
}

TEST_F(CheckpointFolderTest, TheNewestIsFoundByNumber) {
  EXPECT_THAT(Newest(), testing::HasSubstr("NOT_FOUND"));
  for (const int64_t step : {9, 1000000, 20, 999999}) {
    ASSERT_STATUS_OK(Save(step));
  }
  EXPECT_EQ(Newest(), "step-1000000");
  EXPECT_EQ(*ListCheckpoints(run_),
            (std::vector<int64_t>{9, 20, 999999, 1000000}));
  // None of these is the name of a checkpoint.
  for (const char* name :
       {"step-2000000.tmp-1", "step-", "step-x", "step-02000000", "step--1",
        "step-2000000x", "other", "step-99999999999999999999"}) {
    std::filesystem::create_directories(run_ + "/" + name);
  }
  EXPECT_EQ(Newest(), "step-1000000");
  EXPECT_EQ(ListCheckpoints(run_)->size(), 4u);
}

TEST_F(CheckpointFolderTest, DamagedOnesArePassedOverAndNamed) {
  for (const int64_t step : {1, 2, 3, 4, 5, 6}) ASSERT_STATUS_OK(Save(step));
  const auto path = [&](int64_t step, const std::string& name) {
    return run_ + "/" + CheckpointName(step) + "/" + name;
  };
  std::filesystem::remove(path(6, "config.json"));
  EXPECT_EQ(Newest(), "step-000005");
  std::filesystem::resize_file(path(5, "model.safetensors"), 6);
  dir_.Write("runs/one/step-000004/model.safetensors", "weightz");
  dir_.Write("runs/one/step-000003/extra", "x");
  std::filesystem::remove(path(2, "manifest.json"));
  const auto found = FindNewestCheckpoint(run_);
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(found->path, run_ + "/step-000001");
  EXPECT_EQ(found->manifest.step, 1);
  ASSERT_EQ(found->skipped.size(), 5u);
  EXPECT_THAT(found->skipped[0], testing::HasSubstr(path(6, "config.json")));
  EXPECT_THAT(found->skipped[1], testing::HasSubstr("(truncated)"));
  EXPECT_THAT(found->skipped[2], testing::HasSubstr("was altered"));
  EXPECT_THAT(found->skipped[3], testing::HasSubstr("not in the manifest"));
  EXPECT_THAT(found->skipped[4], testing::HasSubstr(path(2, "manifest.json")));
  dir_.Write("runs/one/step-000001/manifest.json", "{}");
  EXPECT_THAT(Newest(), testing::HasSubstr("no undamaged checkpoint"));
  EXPECT_THAT(Newest(), testing::HasSubstr("step-000004"));
}

TEST_F(CheckpointFolderTest, ARenamedCheckpointIsNotTrusted) {
  ASSERT_STATUS_OK(Save(1));
  std::filesystem::rename(run_ + "/step-000001", run_ + "/step-000007");
  EXPECT_THAT(Newest(), testing::HasSubstr("its manifest is of step 1"));
}

TEST_F(CheckpointFolderTest, EveryFlippedByteOfAFileShows) {
  ASSERT_STATUS_OK(Save(1));
  const std::string name = "runs/one/step-000001/model.safetensors";
  for (size_t i = 0; i < 7; ++i) {
    std::string bytes = "weights";
    bytes[i] = static_cast<char>(bytes[i] ^ 1);
    dir_.Write(name, bytes);
    EXPECT_ERROR(VerifyCheckpoint(run_ + "/step-000001").status(), "altered");
  }
  dir_.Write(name, "weights!");
  EXPECT_ERROR(VerifyCheckpoint(run_ + "/step-000001").status(), "8 bytes");
}

TEST_F(CheckpointFolderTest, Prune) {
  for (int64_t step = 1; step <= 5; ++step) ASSERT_STATUS_OK(Save(step));
  ASSERT_STATUS_OK(PruneCheckpoints(run_, 0));
  EXPECT_EQ(ListCheckpoints(run_)->size(), 5u);
  ASSERT_STATUS_OK(PruneCheckpoints(run_, 2));
  EXPECT_EQ(Names(), "step-000004 step-000005");
  ASSERT_STATUS_OK(PruneCheckpoints(run_, 7));
  EXPECT_EQ(Names(), "step-000004 step-000005");
}

TEST_F(CheckpointFolderTest, StaleTemporaries) {
  ASSERT_STATUS_OK(RemoveStaleTemporaries(run_));
  ASSERT_STATUS_OK(Save(1));
  const std::string self = std::to_string(getpid());
  const std::string parent = std::to_string(getppid());
  // 2^22 is the largest pid of Linux.
  for (const std::string& name :
       {std::string("step-000002.tmp-99999999"), "step-000003.tmp-" + self,
        "step-000004.tmp-" + parent, std::string("mine.tmp-99999999")}) {
    dir_.Write("runs/one/" + name + "/file", "x");
  }
  ASSERT_STATUS_OK(RemoveStaleTemporaries(run_));
  EXPECT_EQ(Names(), "mine.tmp-99999999 step-000001 step-000004.tmp-" + parent);
}

TEST_F(CheckpointFolderTest, AFullDiskLeavesThePreviousOne) {
  ASSERT_STATUS_OK(Save(1));
  signal(SIGXFSZ, SIG_IGN);
  rlimit old;
  getrlimit(RLIMIT_FSIZE, &old);
  const rlimit limit = {1000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  const absl::Status full = Save(2, std::string(5000, 'w'));
  const absl::Status again = Save(1, std::string(5000, 'w'));
  setrlimit(RLIMIT_FSIZE, &old);
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_ERROR(full, "model.safetensors");
  EXPECT_TRUE(absl::IsResourceExhausted(again)) << again;
  EXPECT_EQ(Names(), "step-000001");
  EXPECT_EQ(Newest(), "step-000001");
  EXPECT_EQ(Slurp(run_ + "/step-000001/model.safetensors"), "weights");
}

TEST_F(CheckpointFolderTest, TooLittleSpaceIsRefusedFirst) {
  const auto writer =
      CheckpointWriter::Create(run_, 1, "carry test", int64_t{1} << 60);
  EXPECT_TRUE(absl::IsResourceExhausted(writer.status()));
  EXPECT_ERROR(writer.status(), "needs 1152921504606846976 bytes");
  EXPECT_EQ(Names(), "");
}

TEST(Manifest, RoundTrip) {
  const CheckpointManifest manifest = {
      7,
      "carry 0.1 \"x\"",
      {{"a", 1, std::string(32, '0')},
       {"b-c_d.e", 1 << 30, std::string(32, 'f')}}};
  const std::string text = ManifestText(manifest);
  const auto read = ParseManifest(text, "p");
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->step, 7);
  EXPECT_EQ(read->program, manifest.program);
  EXPECT_EQ(ManifestText(*read), text);
  for (size_t n = 0; n + 2 < text.size(); ++n) {
    EXPECT_FALSE(ParseManifest(text.substr(0, n), "p").ok()) << n;
  }
}

TEST(Manifest, Damaged) {
  const std::string hash(32, 'a');
  const auto parse = [&](const std::string& step, const std::string& files,
                         const std::string& version = "1") {
    return ParseManifest("{\"format\": \"carry-checkpoint\", \"version\": " +
                             version + ", \"step\": " + step +
                             ", \"program\": \"p\", \"files\": " + files + "}",
                         "m.json")
        .status();
  };
  const auto file = [&](const std::string& name, const std::string& size,
                        const std::string& checksum) {
    return parse("1", "[{\"name\": " + name + ", \"size\": " + size +
                          ", \"xxh3_128\": " + checksum + "}]");
  };
  const std::string quoted = "\"" + hash + "\"";
  EXPECT_STATUS_OK(parse("1", "[]"));
  EXPECT_STATUS_OK(file("\"a\"", "1", quoted));
  EXPECT_ERROR(parse("-1", "[]"), "m.json: \"step\" must be a whole number");
  EXPECT_ERROR(parse("1", "{}"), "not an array");
  EXPECT_ERROR(parse("1", "[7]"), "no name, size and xxh3_128");
  EXPECT_ERROR(parse("1", "[]", "2"), "this program reads version 1");
  EXPECT_ERROR(file("\"../a\"", "1", quoted), "no name of a file");
  EXPECT_ERROR(file("\"/a\"", "1", quoted), "no name of a file");
  EXPECT_ERROR(file("\"\"", "1", quoted), "no name of a file");
  EXPECT_ERROR(file("\"..\"", "1", quoted), "no name of a file");
  EXPECT_ERROR(file("\"manifest.json\"", "1", quoted), "no name of a file");
  EXPECT_ERROR(file("\"a\"", "-1", quoted), "whole number");
  EXPECT_ERROR(file("\"a\"", "1e3", quoted), "whole number");
  EXPECT_ERROR(file("\"a\"", "1", "\"abc\""), "32 hexadecimal");
  EXPECT_ERROR(file("\"a\"", "1", "7"), "no name, size and xxh3_128");
  const std::string a =
      "{\"name\": \"a\", \"size\": 1, \"xxh3_128\": " + quoted + "}";
  EXPECT_ERROR(parse("1", "[" + a + "," + a + "]"), "a comes twice");
  EXPECT_ERROR(ParseManifest("{}", "p").status(), "\"format\" is not");
  EXPECT_ERROR(ParseManifest("[]", "p").status(), "\"format\" is not");
  EXPECT_ERROR(
      ParseManifest("{\"format\": \"carry-checkpoint\"}", "p").status(),
      "has no \"version\"");
}

}  // namespace
}  // namespace carry
