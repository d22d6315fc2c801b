#include "framework/io/file.h"

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

TEST(File, WritesAndReadsBack) {
  const TempDir dir;
  for (const std::string& bytes :
       {std::string(), std::string("a\0b", 3), std::string(3 << 20, 'x')}) {
    ASSERT_STATUS_OK(WriteFileAtomically(dir / "f", bytes));
    const auto read = ReadFile(dir / "f");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(*read, bytes);
    const auto mapped = MappedFile::Open(dir / "f");
    ASSERT_TRUE(mapped.ok()) << mapped.status();
    EXPECT_EQ(mapped->bytes(), bytes);
    EXPECT_EQ(*FileSize(dir / "f"), static_cast<int64_t>(bytes.size()));
    EXPECT_EQ(dir.List(), "f");
  }
}

TEST(File, ReadFileTakesProcAndRefusesTheTooLarge) {
  const auto status = ReadFile("/proc/self/status");
  ASSERT_TRUE(status.ok()) << status.status();
  EXPECT_THAT(*status, testing::HasSubstr("VmRSS"));
  const TempDir dir;
  dir.Write("f", "12345");
  EXPECT_TRUE(ReadFile(dir / "f", 5).ok());
  EXPECT_ERROR(ReadFile(dir / "f", 4).status(), "has 5 bytes");
  EXPECT_ERROR(ReadFile("/proc/self/status", 4).status(), "more than 4");
}

TEST(File, ErrorsNamePathAndRemedy) {
  const TempDir dir;
  const auto missing = ReadFile(dir / "nothing").status();
  EXPECT_TRUE(absl::IsNotFound(missing));
  EXPECT_ERROR(missing, dir / "nothing");
  EXPECT_ERROR(missing, "check the path");
  EXPECT_ERROR(ReadFile(dir.path()).status(), "it is a directory");
  EXPECT_ERROR(MappedFile::Open(dir.path()).status(), "it is a directory");
  dir.Write("f", "x");
  EXPECT_TRUE(absl::IsNotFound(ReadFile(dir / "f/g").status()));
  EXPECT_ERROR(WriteFileAtomically(dir / "no/f", "x"), dir / "no/f");
  EXPECT_ERROR(ListDirectory(dir / "no").status(), "cannot list");
  EXPECT_ERROR(FreeSpace(dir / "no").status(), dir / "no");
  EXPECT_ERROR(ErrnoStatus("open", "/p", EACCES), "ls -ld /p");
  EXPECT_TRUE(absl::IsPermissionDenied(ErrnoStatus("open", "/p", EACCES)));
  EXPECT_TRUE(absl::IsResourceExhausted(ErrnoStatus("write", "/p", ENOSPC)));
  EXPECT_ERROR(ErrnoStatus("write", "/p", ENOSPC), "bytes are free there");
}

TEST(File, AFifoDoesNotBlock) {
  const TempDir dir;
  ASSERT_EQ(mkfifo((dir / "fifo").c_str(), 0600), 0);
  EXPECT_ERROR(ReadFile(dir / "fifo").status(), "not a regular file");
  EXPECT_ERROR(MappedFile::Open(dir / "fifo").status(), "not a regular file");
}

TEST(File, PermissionDenied) {
  if (geteuid() == 0) GTEST_SKIP() << "root may read everything";
  const TempDir dir;
  chmod(dir.Write("f", "x").c_str(), 0);
  EXPECT_TRUE(absl::IsPermissionDenied(ReadFile(dir / "f").status()));
}

TEST(File, MappedFileMoves) {
  const TempDir dir;
  dir.Write("a", "aaa");
  dir.Write("b", "bb");
  auto a = MappedFile::Open(dir / "a");
  auto b = MappedFile::Open(dir / "b");
  MappedFile moved = std::move(*a);
  EXPECT_EQ(moved.bytes(), "aaa");
  EXPECT_EQ(a->size(), 0);
  moved = std::move(*b);
  EXPECT_EQ(moved.bytes(), "bb");
}

TEST(File, OutputFileStreamsAndRewrites) {
  const TempDir dir;
  auto file = OutputFile::Create(dir / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  std::string expected = "head";
  ASSERT_STATUS_OK(file->Append("head"));
  for (int i = 0; i < 100; ++i) {
    const std::string part(30000, static_cast<char>('a' + i % 26));
    ASSERT_STATUS_OK(file->Append(part));
    expected += part;
  }
  ASSERT_STATUS_OK(file->Append(std::string(2 << 20, '!')));
  expected += std::string(2 << 20, '!');
  ASSERT_STATUS_OK(file->Rewrite(1, "EA"));
  expected.replace(1, 2, "EA");
  ASSERT_STATUS_OK(file->Append("tail"));
  expected += "tail";
  EXPECT_EQ(file->size(), static_cast<int64_t>(expected.size()));
  EXPECT_FALSE(PathExists(dir / "f"));
  ASSERT_STATUS_OK(file->Commit());
  EXPECT_EQ(Slurp(dir / "f"), expected);
  EXPECT_EQ(dir.List(), "f");
}

TEST(File, RewritesWhatIsStillBuffered) {
  const TempDir dir;
  auto file = OutputFile::Create(dir / "f");
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_STATUS_OK(file->Append("....and more"));
  ASSERT_STATUS_OK(file->Rewrite(0, "head"));
  ASSERT_STATUS_OK(file->Commit());
  EXPECT_EQ(Slurp(dir / "f"), "headand more");
}

TEST(File, WithoutCommitTheOldBytesStay) {
  const TempDir dir;
  dir.Write("f", "old");
  {
    auto file = OutputFile::Create(dir / "f");
    ASSERT_STATUS_OK(file->Append("new"));
  }
  EXPECT_EQ(Slurp(dir / "f"), "old");
  EXPECT_EQ(dir.List(), "f");
}

// Limits the size of files for its lifetime: a disk that fills up.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit = {bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_;
};

TEST(File, AFailedWriteKeepsTheOldBytes) {
  const TempDir dir;
  dir.Write("f", "old");
  absl::Status small;
  absl::Status large;
  {
    const FileSizeLimit limit(10000);
    small = WriteFileAtomically(dir / "f", std::string(20000, 'x'));
    large = WriteFileAtomically(dir / "f", std::string(2 << 20, 'x'));
  }
  EXPECT_TRUE(absl::IsResourceExhausted(small)) << small;
  EXPECT_TRUE(absl::IsResourceExhausted(large)) << large;
  EXPECT_ERROR(small, dir / "f");
  EXPECT_EQ(Slurp(dir / "f"), "old");
  EXPECT_EQ(dir.List(), "f");
}

TEST(File, AFullDiskIsNamed) {
  const TempDir dir;
  if (unshare(CLONE_NEWNS) != 0 ||
      mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
      mount("carry_test", dir.path().c_str(), "tmpfs", 0, "size=64k") != 0) {
    GTEST_SKIP() << "may not mount a small file system here";
  }
  ASSERT_STATUS_OK(WriteFileAtomically(dir / "f", "old"));
  const absl::Status full =
      WriteFileAtomically(dir / "f", std::string(200000, 'x'));
  EXPECT_EQ(Slurp(dir / "f"), "old");
  EXPECT_EQ(dir.List(), "f");
  umount(dir.path().c_str());
  EXPECT_TRUE(absl::IsResourceExhausted(full)) << full;
  EXPECT_ERROR(full, "bytes are free there; free some space");
}

TEST(File, Folders) {
  const TempDir dir;
  ASSERT_STATUS_OK(MakeDirectories(dir / "a/b/c"));
  ASSERT_STATUS_OK(MakeDirectories(dir / "a/b/c"));
  dir.Write("a/z", "1");
  dir.Write("a/m", "1");
  EXPECT_EQ(*ListDirectory(dir / "a"),
            (std::vector<std::string>{"b", "m", "z"}));
  EXPECT_TRUE(IsDirectory(dir / "a"));
  EXPECT_FALSE(IsRegularFile(dir / "a"));
  EXPECT_TRUE(IsRegularFile(dir / "a/z"));
  EXPECT_FALSE(IsDirectory(dir / "a/z"));
  ASSERT_STATUS_OK(Rename(dir / "a/z", dir / "z"));
  EXPECT_EQ(dir.List(), "a z");
  EXPECT_ERROR(Rename(dir / "none", dir / "z"), "none");
  ASSERT_STATUS_OK(RemoveRecursively(dir / "a"));
  ASSERT_STATUS_OK(RemoveRecursively(dir / "a"));
  EXPECT_EQ(dir.List(), "z");
  EXPECT_GT(*FreeSpace(dir.path()), 0);
  EXPECT_ERROR(MakeDirectories(dir / "z/b"), "cannot create directory");
}

TEST(File, Paths) {
  EXPECT_EQ(JoinPath("a", "b"), "a/b");
  EXPECT_EQ(JoinPath("a/", "b"), "a/b");
  EXPECT_EQ(JoinPath("", "b"), "b");
  EXPECT_EQ(ParentPath("a/b"), "a");
  EXPECT_EQ(ParentPath("b"), ".");
  EXPECT_EQ(ParentPath("/b"), "/");
}

}  // namespace
}  // namespace carry
