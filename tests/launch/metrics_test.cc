// What a run writes about itself, read back by other means than it was written.
#include "launch/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "launch/crc32c.h"
#include "launch/event.pb.h"
#include "launch/progress.h"

namespace carry {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class MetricsTest : public testing::Test {
 protected:
  MetricsTest() {
    std::string name =
        (std::filesystem::temp_directory_path() / "carry_test_XXXXXX").string();
    dir_ = mkdtemp(name.data());
  }
  ~MetricsTest() override { std::filesystem::remove_all(dir_); }

  std::string Slurp(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }

  std::vector<int64_t> LoggedSteps() {
    std::vector<int64_t> steps;
    std::string text = Slurp(dir_ + "/metrics.jsonl");
    for (absl::string_view line :
         absl::StrSplit(text, '\n', absl::SkipEmpty())) {
      steps.push_back(nlohmann::json::parse(std::string(line))["step"]);
    }
    return steps;
  }

  std::vector<std::string> EventFiles() {
    std::vector<std::string> files;
    for (const auto& e : std::filesystem::directory_iterator(dir_)) {
      if (absl::StrContains(e.path().string(), "events.out.tfevents.")) {
        files.push_back(e.path().string());
      }
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  std::string dir_;
};

TrainMetrics Example(int64_t step) {
  TrainMetrics m;
  m.step = step;
  m.tokens = 100 * step;
  m.loss = 1.0 / 3 + step;
  m.bits_per_byte = m.loss / std::log(2);
  m.grad_norm = 0.1;
  m.learning_rate = 6e-4;
  m.seconds = 2;
  m.tokens_per_second = 50;
  return m;
}

TEST(Crc32cTest, PublishedVectors) {
  // RFC 3720, B.4.
  EXPECT_EQ(Crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(Crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(Crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  EXPECT_EQ(MaskedCrc32c("123456789"),
            ((0xe3069283u >> 15) | (0xe3069283u << 17)) + 0xa282ead8u);
}

// The bytes that every event file of TensorFlow begins with.
TEST(EventFileTest, RecordHeader) {
  const std::string record = EncodeRecord(std::string(24, 'x'));
  const unsigned char want[] = {24, 0, 0,    0,    0,    0,
                                0,  0, 0xa3, 0x7f, 0x4b, 0x22};
  ASSERT_EQ(record.size(), 8u + 4 + 24 + 4);
  EXPECT_EQ(std::memcmp(record.data(), want, sizeof(want)), 0);
}

// Cuts a file into events, checking every length and checksum.
std::vector<event::Event> ParseEvents(const std::string& file) {
  std::vector<event::Event> events;
  size_t at = 0;
  while (at < file.size()) {
    if (file.size() - at < 12) {
      ADD_FAILURE() << "cut short at " << at;
      break;
    }
    uint64_t n = 0;
    uint32_t head = 0, tail = 0;
    std::memcpy(&n, &file[at], 8);
    std::memcpy(&head, &file[at + 8], 4);
    EXPECT_EQ(head, MaskedCrc32c(file.substr(at, 8)));
    if (file.size() - at < 16 + n) {
      ADD_FAILURE() << "cut short at " << at;
      break;
    }
    const std::string data = file.substr(at + 12, n);
    std::memcpy(&tail, &file[at + 12 + n], 4);
    EXPECT_EQ(tail, MaskedCrc32c(data));
    events.emplace_back();
    EXPECT_TRUE(events.back().ParseFromString(data));
    at += 16 + n;
  }
  return events;
}

TEST_F(MetricsTest, EventsReadBack) {
  auto writer = MetricsWriter::Open(dir_, 0);
  ASSERT_TRUE(writer.ok()) << writer.status();
  ASSERT_TRUE((*writer)->Write(Example(1)).ok());
  EvalMetrics eval;
  eval.step = 2;
  eval.loss = 4;
  ASSERT_TRUE((*writer)->Write(eval).ok());
  ASSERT_EQ(EventFiles().size(), 1u);
  std::vector<event::Event> events = ParseEvents(Slurp(EventFiles()[0]));
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].file_version(), "brain.Event:2");
  EXPECT_GT(events[0].wall_time(), 1.6e9);
  EXPECT_EQ(events[1].step(), 1);
  EXPECT_EQ(events[1].summary().value(0).tag(), "train/loss");
  EXPECT_EQ(events[1].summary().value(0).simple_value(), 1 + 1.0f / 3);
  EXPECT_EQ(events[2].summary().value(0).tag(), "eval/loss");
  EXPECT_EQ(events[2].step(), 2);
  EXPECT_EQ(events[2].summary().value_size(), 1) << "unknown bits per byte";
}

// The field numbers on the wire, without the generated code.
TEST(EventFileTest, WireFormat) {
  event::Event e;
  e.set_wall_time(1);
  e.set_step(5);
  auto* value = e.mutable_summary()->add_value();
  value->set_tag("a");
  value->set_simple_value(1);
  const std::string want(
      "\x09\x00\x00\x00\x00\x00\x00\xf0\x3f"  // 1: double
      "\x10\x05"                              // 2: varint
      "\x2a\x0a\x0a\x08"                      // 5: summary, 1: value
      "\x0a\x01"
      "a"                      // 1: tag
      "\x15\x00\x00\x80\x3f",  // 2: float
      9 + 2 + 4 + 3 + 5);
  EXPECT_EQ(e.SerializeAsString(), want);
  event::Event start;
  start.mutable_session_log()->set_status(event::SessionLog::START);
  EXPECT_EQ(start.SerializeAsString(), std::string("\x3a\x02\x08\x01", 4));
}

TEST_F(MetricsTest, LinesKeepEveryBit) {
  TrainMetrics m = Example(7);
  m.loss = 0.1 + 0.2;
  const auto json = nlohmann::json::parse(JsonLine(m));
  EXPECT_EQ(json["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json["kind"], "train");
  EXPECT_EQ(json["step"], 7);
  EXPECT_EQ(json["tokens"], 700);
  EXPECT_EQ(json["learning_rate"].get<double>(), 6e-4);
  EXPECT_FALSE(json["skipped"].get<bool>());
  EXPECT_TRUE(json["matmul_share"].is_null());
}

TEST_F(MetricsTest, NotFiniteIsNull) {
  TrainMetrics m = Example(1);
  m.loss = std::numeric_limits<double>::infinity();
  m.skipped = true;
  const auto json = nlohmann::json::parse(JsonLine(m));
  EXPECT_TRUE(json["loss"].is_null());
  EXPECT_TRUE(json["skipped"].get<bool>());
}

TEST_F(MetricsTest, ResumeDropsWhatWasWrittenLater) {
  {
    auto writer = MetricsWriter::Open(dir_, 0);
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (int step = 1; step <= 5; ++step) {
      ASSERT_TRUE((*writer)->Write(Example(step)).ok());
    }
  }
  // A crash left half a line.
  std::ofstream(dir_ + "/metrics.jsonl", std::ios::app) << "{\"kind\":\"tr";
  {
    auto writer = MetricsWriter::Open(dir_, 3);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE((*writer)->Write(Example(4)).ok());
  }
  EXPECT_THAT(LoggedSteps(), ElementsAre(1, 2, 3, 4));
  ASSERT_EQ(EventFiles().size(), 2u);
  bool told = false;
  for (const std::string& file : EventFiles()) {
    for (const event::Event& e : ParseEvents(Slurp(file))) {
      if (e.session_log().status() != event::SessionLog::START) continue;
      EXPECT_EQ(e.step(), 4);
      told = true;
    }
  }
  EXPECT_TRUE(told) << "readers are not told to drop steps 4 and 5";
}

TEST_F(MetricsTest, NewRunStartsAnew) {
  for (int run = 0; run < 2; ++run) {
    auto writer = MetricsWriter::Open(dir_, 0);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE((*writer)->Write(Example(1)).ok());
  }
  EXPECT_THAT(LoggedSteps(), ElementsAre(1));
}

TEST_F(MetricsTest, MissingFolderIsAnError) {
  EXPECT_THAT(
      std::string(MetricsWriter::Open(dir_ + "/none", 0).status().message()),
      HasSubstr("none"));
}

TEST(ProgressTest, Line) {
  TrainMetrics m = Example(12);
  m.matmul_share = 0.347;
  m.tokens_per_second = 45210;
  EXPECT_EQ(ProgressLine(m, 400, 185),
            "step 12/400 | loss 12.3333 | 17.793 bits/byte | norm 0.1 | "
            "lr 6.00e-04 | 45.2K tok/s | 35% of matmul peak | 3m05s left");
  m.bits_per_byte = NAN;
  m.matmul_share = NAN;
  m.skipped = true;
  EXPECT_EQ(ProgressLine(m, 400, 1),
            "step 12/400 | loss 12.3333 | norm 0.1 | lr 6.00e-04 | 45.2K tok/s "
            "| 1.0s left | NOT FINITE, update skipped");
}

TEST_F(MetricsTest, ProgressWithoutTerminalIsPlainLines) {
  const std::string path = dir_ + "/screen", log = dir_ + "/train.log";
  std::FILE* screen = std::fopen(path.c_str(), "wb");
  {
    Progress progress(screen, 3);
    ASSERT_TRUE(progress.OpenLog(log, false).ok());
    progress.Step(Example(1));
    progress.Note("saved");
    progress.Step(Example(3));
  }
  std::fclose(screen);
  EXPECT_EQ(Slurp(path), Slurp(log));
  const std::vector<std::string> lines = absl::StrSplit(Slurp(log), '\n');
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_THAT(lines[0], HasSubstr("step 1/3"));
  EXPECT_THAT(lines[0], HasSubstr("4.0s left"));
  EXPECT_EQ(lines[1], "saved");
  EXPECT_THAT(lines[2], HasSubstr("0.0s left"));
  EXPECT_FALSE(absl::StrContains(Slurp(path), "\r"));
}

}  // namespace
}  // namespace carry
