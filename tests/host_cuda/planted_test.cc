// Every detector fires on its planted bug, at the line of the bug, and on
// nothing else.
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <fstream>
#include <string>

#include "gtest/gtest.h"

namespace {

struct Bug {
  const char* program;  // Built plainly, or with a sanitizer.
  const char* name;
  const char* message;
};

const Bug kBugs[] = {
    {"planted", "divergence", "host_cuda: barrier divergence"},
    {"planted", "two_barriers", "host_cuda: barrier divergence"},
    {"planted", "deadlock", "host_cuda: deadlock"},
    {"planted", "lanes", "host_cuda: lanes missing"},
    {"planted", "mask", "host_cuda: lanes missing"},
    {"planted_asan", "shared_bounds", "heap-buffer-overflow"},
    {"planted_asan", "global_bounds", "heap-buffer-overflow"},
    {"planted_tsan", "barrier", "data race"},
    {"planted_tsan", "rewrite", "data race"},
    {"planted_tsan", "warp_barrier", "data race"},
    {"planted_tsan", "blocks", "data race"},
};

struct Ended {
  int status;
  std::string output;
};
Ended RunPlanted(const Bug& bug, const char* how) {
  const std::string command = std::string("'") + PLANTED_FOLDER + "/" +
                              bug.program + "' " + bug.name + " " + how +
                              " 2>&1";
  FILE* pipe = popen(command.c_str(), "r");
  Ended run = {-1, ""};
  std::array<char, 4096> buffer;
  while (size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) {
    run.output.append(buffer.data(), n);
  }
  run.status = pclose(pipe);
  return run;
}

// "planted.cu:LINE" of the bug.
std::string Place(const std::string& name) {
  std::ifstream source(CARRY_SOURCE_DIR "/tests/host_cuda/planted.cu");
  std::string line;
  for (int number = 1; std::getline(source, line); ++number) {
    const std::string mark = "// BUG " + name;
    if (line.size() >= mark.size() &&
        line.compare(line.size() - mark.size(), mark.size(), mark) == 0) {
      return "planted.cu:" + std::to_string(number);
    }
  }
  return "no such bug";
}

class PlantedTest : public ::testing::TestWithParam<Bug> {};

TEST_P(PlantedTest, IsFound) {
  const Bug& bug = GetParam();
  const Ended run = RunPlanted(bug, "");
  EXPECT_NE(run.status, 0);
  EXPECT_NE(run.output.find(bug.message), std::string::npos) << run.output;
  EXPECT_NE(run.output.find(Place(bug.name)), std::string::npos)
      << Place(bug.name) << "\n"
      << run.output;
}

TEST_P(PlantedTest, RightCodePasses) {
  const Ended run = RunPlanted(GetParam(), "right");
  EXPECT_EQ(run.status, 0);
  EXPECT_EQ(run.output, "ran to its end\n");
}

INSTANTIATE_TEST_SUITE_P(Bugs, PlantedTest, ::testing::ValuesIn(kBugs),
                         [](const auto& info) { return info.param.name; });

}  // namespace
