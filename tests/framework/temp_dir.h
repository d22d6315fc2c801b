// A folder for one test, removed with all in it, and short ways to fill it.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace carry {

class TempDir {
 public:
  TempDir() {
    std::string name =
        (std::filesystem::temp_directory_path() / "carry_test_XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const {
    return path_ + "/" + name;
  }

  // Writes a file, with the folders above it, and returns its path.
  std::string Write(const std::string& name, const std::string& bytes) const {
    std::string path = *this / name;
    std::filesystem::create_directories(
        std::filesystem::path(path).parent_path());
    std::ofstream out(path, std::ios::binary);
    out << bytes;
    EXPECT_TRUE(out.good()) << path;
    return path;
  }

  // Names in the folder, joined by spaces in sorted order.
  std::string List() const {
    std::vector<std::string> names;
    for (const auto& e : std::filesystem::directory_iterator(path_)) {
      names.push_back(e.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    std::string all;
    for (const std::string& name : names) {
      all += (all.empty() ? "" : " ") + name;
    }
    return all;
  }

 private:
  std::string path_;
};

inline std::string Slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  std::ostringstream bytes;
  bytes << in.rdbuf();
  return bytes.str();
}

// Whether `status` fails with a message that holds `text`.
inline testing::AssertionResult Fails(const absl::Status& status,
                                      const std::string& text) {
  if (status.ok()) return testing::AssertionFailure() << "no error";
  if (status.message().find(text) != absl::string_view::npos) {
    return testing::AssertionSuccess();
  }
  return testing::AssertionFailure()
         << status.ToString() << "\n  does not hold: " << text;
}

inline testing::AssertionResult Succeeds(const absl::Status& status) {
  if (status.ok()) return testing::AssertionSuccess();
  return testing::AssertionFailure() << status.ToString();
}

}  // namespace carry

#define EXPECT_ERROR(status, text) EXPECT_TRUE(carry::Fails(status, text))
#define EXPECT_STATUS_OK(status) EXPECT_TRUE(carry::Succeeds(status))
#define ASSERT_STATUS_OK(status) ASSERT_TRUE(carry::Succeeds(status))
