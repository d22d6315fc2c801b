#include "framework/data/files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

class FilesTest : public testing::Test {
 protected:
  // "path|relative" without the folder in front, joined by spaces.
  std::string Expand(std::vector<std::string> inputs,
                     const std::vector<std::string>& extensions = {}) {
    for (std::string& input : inputs) input = dir_ / input;
    const auto files = ExpandFiles(inputs, extensions);
    if (!files.ok()) return std::string(files.status().message());
    std::string all;
    for (const DataFile& f : *files) {
      EXPECT_GT(f.size, 0);
      all += (all.empty() ? "" : " ") + f.path.substr(dir_.path().size() + 1) +
             "|" + f.relative;
    }
    return all;
  }

  TempDir dir_;
};

TEST_F(FilesTest, FilesDirectoriesGlobs) {
  dir_.Write("d/b.h", "1");
  dir_.Write("d/a.cc", "22");
  dir_.Write("d/sub/c.h", "3");
  dir_.Write("d/.git/x.h", "hidden");
  dir_.Write("d/.hidden.h", "hidden");
  dir_.Write("d/empty.h", "");
  EXPECT_EQ(Expand({"d"}), "d/a.cc|a.cc d/b.h|b.h d/sub/c.h|sub/c.h");
  EXPECT_EQ(Expand({"d/"}), "d/a.cc|a.cc d/b.h|b.h d/sub/c.h|sub/c.h");
  EXPECT_EQ(Expand({"d"}, {".h"}), "d/b.h|b.h d/sub/c.h|sub/c.h");
  EXPECT_EQ(Expand({"d"}, {".cc", "c.h"}), "d/a.cc|a.cc d/sub/c.h|sub/c.h");
  EXPECT_EQ(Expand({"d/b.h"}, {".cc"}), "d/b.h|b.h");
  EXPECT_EQ(Expand({"d/[ab].*"}), "d/a.cc|a.cc d/b.h|b.h");
  EXPECT_EQ(Expand({"d/*/c.h"}), "d/sub/c.h|sub/c.h");
  EXPECT_EQ(Expand({"d/{a.cc,b.h}"}), "d/a.cc|a.cc d/b.h|b.h");
  EXPECT_EQ(Expand({"d/s*"}), "d/sub/c.h|c.h");
  EXPECT_EQ((*ExpandFiles({dir_ / "d/a.cc"}, {}))[0].size, 2);
}

TEST_F(FilesTest, EachOnceWhateverTheOrder) {
  dir_.Write("d/a", "1");
  dir_.Write("d/b", "2");
  const std::string expected = Expand({"d", "d/b", "d/*"});
  EXPECT_EQ(expected, "d/a|a d/b|b");
  EXPECT_EQ(Expand({"d/*", "d/b", "d", "d"}), expected);
}

TEST_F(FilesTest, NamesThatLookLikeGlobs) {
  dir_.Write("d/a[1].txt", "1");
  EXPECT_EQ(Expand({"d/a[1].txt"}), "d/a[1].txt|a[1].txt");
}

TEST_F(FilesTest, LinksAndLoops) {
  dir_.Write("d/real/x", "1");
  dir_.Write("other/y", "2");
  std::filesystem::create_directory_symlink("real", dir_ / "d/alias");
  std::filesystem::create_directory_symlink("..", dir_ / "d/real/loop");
  std::filesystem::create_directory_symlink(dir_ / "other", dir_ / "d/o");
  std::filesystem::create_symlink("real/x", dir_ / "d/a_link");
  std::filesystem::create_symlink("nowhere", dir_ / "d/dangling");
  std::filesystem::create_symlink("self", dir_ / "d/self");
  EXPECT_EQ(Expand({"d"}), "d/o/y|o/y d/real/x|real/x");
}

TEST_F(FilesTest, Errors) {
  dir_.Write("empty", "");
  dir_.Write("d/empty", "");
  mkfifo((dir_ / "fifo").c_str(), 0600);
  EXPECT_THAT(Expand({"none"}), testing::HasSubstr("cannot open data"));
  EXPECT_THAT(Expand({"none/*"}), testing::HasSubstr("matches no file"));
  EXPECT_THAT(Expand({"empty"}), testing::HasSubstr("is empty"));
  EXPECT_THAT(Expand({"fifo"}), testing::HasSubstr("not a regular file"));
  EXPECT_THAT(Expand({"d"}), testing::HasSubstr("holds no file"));
  dir_.Write("d/x.txt", "1");
  EXPECT_THAT(Expand({"d"}, {".h", ".cc"}),
              testing::HasSubstr("whose name ends in .h, .cc"));
  EXPECT_ERROR(ExpandFiles({}, {}).status(), "no data files are named");
  EXPECT_ERROR(ExpandFiles({""}, {}).status(), "an empty path");
  if (geteuid() != 0) {
    chmod((dir_ / "d/x.txt").c_str(), 0);
    EXPECT_THAT(Expand({"d"}), testing::HasSubstr("check the permissions"));
  }
}

std::vector<DataFile> ManyFiles(int from, int to) {
  std::vector<DataFile> files;
  for (int i = from; i < to; ++i) {
    const std::string name = "dir/file" + std::to_string(i) + ".txt";
    files.push_back({"/root/" + name, name, 1});
  }
  return files;
}

std::set<std::string> Paths(const std::vector<DataFile>& files) {
  std::set<std::string> paths;
  for (const DataFile& f : files) paths.insert(f.path);
  return paths;
}

// A folder to train on and a folder in it to evaluate on; a link is its file.
TEST_F(FilesTest, HeldOutFilesAreNotTrainedOn) {
  dir_.Write("d/a", "1");
  dir_.Write("d/held/b", "1");
  dir_.Write("other/c", "1");
  ASSERT_EQ(symlink((dir_ / "other/c").c_str(), (dir_ / "d/held/c").c_str()),
            0);
  const auto files = ExpandFiles({dir_ / "d", dir_ / "other"}, {});
  const auto held_out = ExpandFiles({dir_ / "d/held"}, {});
  ASSERT_TRUE(files.ok() && held_out.ok());
  EXPECT_EQ(held_out->size(), 2u);
  const auto left = WithoutHeldOut(*files, *held_out);
  ASSERT_TRUE(left.ok()) << left.status();
  ASSERT_EQ(left->size(), 1u);
  EXPECT_EQ((*left)[0].relative, "a");
  const auto none = WithoutHeldOut(*held_out, *files);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.status().message().find("data.eval"), std::string::npos);
}

TEST(SplitFiles, AFileStaysOnItsSide) {
  const auto few = SplitFiles(ManyFiles(100, 200), 0.1, 7);
  const auto many = SplitFiles(ManyFiles(0, 1000), 0.1, 7);
  ASSERT_TRUE(few.ok() && many.ok());
  EXPECT_EQ(few->train.size() + few->held_out.size(), 100u);
  EXPECT_NEAR(static_cast<double>(many->held_out.size()), 100, 35);
  const auto train = Paths(many->train);
  const auto held_out = Paths(many->held_out);
  for (const DataFile& f : few->train) EXPECT_TRUE(train.count(f.path));
  for (const DataFile& f : few->held_out) EXPECT_TRUE(held_out.count(f.path));
  // A greater share only adds.
  const auto more = SplitFiles(ManyFiles(0, 1000), 0.2, 7);
  const auto more_held_out = Paths(more->held_out);
  for (const DataFile& f : many->held_out) {
    EXPECT_TRUE(more_held_out.count(f.path));
  }
  EXPECT_NE(Paths(SplitFiles(ManyFiles(0, 1000), 0.1, 8)->held_out), held_out);
}

// Frozen: a change would move files of existing runs from one side to the
// other.
TEST(SplitFiles, TheRuleIsFrozen) {
  std::string sides;
  for (int i = 0; i < 32; ++i) {
    sides += IsHeldOut("file" + std::to_string(i), 0.25, 1) ? '1' : '0';
  }
  EXPECT_EQ(sides, "00001000101011101000000111110000");
}

TEST(SplitFiles, Fractions) {
  const auto none = SplitFiles(ManyFiles(0, 10), 0, 1);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_EQ(none->train.size(), 10u);
  const auto all = SplitFiles(ManyFiles(0, 10), 1, 1);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->held_out.size(), 10u);
  EXPECT_ERROR(SplitFiles(ManyFiles(0, 3), 1e-9, 1).status(),
               "leaves none to evaluate on");
  EXPECT_ERROR(SplitFiles(ManyFiles(0, 3), 1 - 1e-9, 1).status(),
               "leaves none to train on");
}

}  // namespace
}  // namespace carry
