// Runs the program `carry` as its users do: arguments in, streams and status
// out.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

namespace carry {

struct Result {
  int status;
  std::string out;
  std::string err;
};

class ProgramTest : public testing::Test {
 protected:
  ProgramTest() {
    std::string name =
        (std::filesystem::temp_directory_path() / "carry_test_XXXXXX").string();
    dir_ = mkdtemp(name.data());
  }
  ~ProgramTest() override { std::filesystem::remove_all(dir_); }

  static std::string Slurp(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }

  // In the folder dir_; `before` may set variables.
  Result Run(const std::string& arguments, const std::string& before = "") {
    const std::string command = "cd " + dir_ + " && " + before +
                                " '" CARRY_PROGRAM "' " + arguments +
                                " >out.txt 2>err.txt </dev/null";
    const int status = std::system(command.c_str());
    EXPECT_TRUE(WIFEXITED(status)) << command;
    return {WEXITSTATUS(status), Slurp(dir_ + "/out.txt"),
            Slurp(dir_ + "/err.txt")};
  }

  std::string Write(const std::string& name, const std::string& text) {
    const std::string path = dir_ + "/" + name;
    std::filesystem::create_directories(
        std::filesystem::path(path).parent_path());
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }

  std::string dir_;
};

}  // namespace carry
