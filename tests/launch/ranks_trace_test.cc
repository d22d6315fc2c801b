// Traces: bounded, nested, one row a rank, and true about who waits for whom.
#include <algorithm>
#include <map>
#include <tuple>

#include "launch/trace.h"
#include "tests/launch/ranks_program_test.h"

namespace carry {
namespace {

using testing::HasSubstr;

struct Event {
  std::string category, name, direction;
  int layer = -1, chunk = -1, peer = -1;
  double begin = 0, end = 0;
};

// Spans by rank, in the file's order, which is that of their beginnings.
std::map<int, std::vector<Event>> Spans(const nlohmann::json& trace) {
  std::map<int, std::vector<Event>> spans;
  for (const nlohmann::json& e : trace["traceEvents"]) {
    if (e["ph"] != "X") continue;
    const nlohmann::json& args = e["args"];
    Event event;
    event.category = e["cat"];
    event.name = e["name"];
    event.direction = args.value("direction", "");
    event.layer = args.value("layer", -1);
    event.chunk = args.value("chunk", -1);
    event.peer = args.value("peer", -1);
    event.begin = e["ts"];
    event.end = event.begin + e["dur"].get<double>();
    spans[e["pid"]].push_back(event);
  }
  return spans;
}

class RanksTraceTest : public RanksProgramTest {
 protected:
  nlohmann::json Parse(const std::string& file) {
    nlohmann::json trace =
        nlohmann::json::parse(Slurp(dir_ + "/" + file), nullptr, false);
    EXPECT_TRUE(trace.is_object());
    return trace;
  }
};

void ExpectNested(const std::vector<Event>& spans) {
  std::vector<double> ends;
  double last = -1e30;
  for (const Event& e : spans) {
    EXPECT_GE(e.begin, last);
    last = e.begin;
    while (!ends.empty() && ends.back() <= e.begin + 2e-3) ends.pop_back();
    if (!ends.empty()) {
      EXPECT_LE(e.end, ends.back() + 2e-3);  // printed to 1e-3
    }
    ends.push_back(e.end);
  }
}

TEST_F(RanksTraceTest, AWavefrontOfTwo) {
  const Result r = TrainOn(1, 2, "run", "--trace trace.json");
  ASSERT_EQ(r.status, 0) << r.err;
  EXPECT_THAT(r.out, HasSubstr("trace trace.json; share of steps"));
  const nlohmann::json trace = Parse("trace.json");
  EXPECT_EQ(trace["otherData"]["dropped"], 0);
  EXPECT_EQ(trace["otherData"]["wait_share"].size(), 2u);

  std::map<int, std::vector<Event>> spans = Spans(trace);
  ASSERT_EQ(spans.size(), 2u);
  // (step, layer, chunk, direction) of each carry, in order of passes.
  std::map<std::tuple<int, int, std::string>, std::vector<double>> sent, got;
  for (const auto& [rank, events] : spans) {
    SCOPED_TRACE(rank);
    ExpectNested(events);
    std::map<std::string, int> count;
    for (const Event& e : events) {
      ++count[e.category];
      const std::tuple<int, int, std::string> key(e.layer, e.chunk,
                                                  e.direction);
      if (e.name == "send carry") {
        EXPECT_EQ(e.peer, 1 - rank);
        sent[key].push_back(e.begin);
      }
      if (e.name == "wait for carry") {
        EXPECT_EQ(e.peer, 1 - rank);
        got[key].push_back(e.end);
      }
    }
    EXPECT_EQ(count["step"], 5);
    EXPECT_EQ(count["data"], 5);
    EXPECT_EQ(count["save"], 2);
    // 4 chunks of this rank, 2 passes: forward, backward with its head, and
    // forward again, but for the last chunk on its own rank, whose tape waits
    // for nobody.
    const int again = rank == 1 ? 3 : 4;
    EXPECT_EQ(count["pass"], 5 * 2 * (4 + again + 4 + 4));
    // The same for 2 layers, without the head.
    EXPECT_EQ(count["layer"], 5 * 2 * 2 * (4 + again + 4));
    EXPECT_GT(count["op"], 1000);
  }
  // Rank 1 waits for rank 0's carries and back, and gets each after it was
  // sent, on one clock.
  EXPECT_EQ(got.size(), 2u * 7 * 2);
  for (const auto& [key, times] : got) {
    const std::vector<double>& from = sent[key];
    ASSERT_EQ(times.size(), from.size());
    for (size_t i = 0; i < times.size(); ++i) EXPECT_GT(times[i], from[i]);
  }
}

TEST_F(RanksTraceTest, PrefixAndData) {
  const Result r =
      TrainOn(2, 2, "run", "--set parallel.schedule=PREFIX --trace t.json");
  ASSERT_EQ(r.status, 0) << r.err;
  std::map<int, std::vector<Event>> spans = Spans(Parse("t.json"));
  ASSERT_EQ(spans.size(), 4u);
  for (const auto& [rank, events] : spans) {
    ExpectNested(events);
    const auto has = [&](const char* name, const char* direction) {
      return std::any_of(events.begin(), events.end(), [&](const Event& e) {
        return e.name == name && e.direction == direction && e.layer == 1;
      });
    };
    EXPECT_TRUE(has("gather summaries", "forward"));
    EXPECT_TRUE(has("gather summaries", "backward"));
    EXPECT_EQ(has("wait for halo", "forward"), rank % 2 == 1);
    EXPECT_EQ(has("wait for halo", "backward"), rank % 2 == 0);
    EXPECT_TRUE(has("layer 1", "backward"));
  }
}

TEST_F(RanksTraceTest, AFileThatCannotBeWritten) {
  const Result r = Run("train tiny.textproto --out run --trace no/t.json");
  EXPECT_EQ(r.status, 1);
  EXPECT_THAT(r.err, HasSubstr("no/t.json: cannot write"));
}

TEST(TraceRecorder, KeepsTheFirstSpansAndCountsTheRest) {
  TraceRecorder recorder(3);
  {
    const Span step({.category = "step", .name = "step"});
    for (int i = 0; i < 4; ++i) {
      const Span outer({.category = "wait", .name = "outer"});
      const Span inner({.category = "wait", .name = "inner"});
    }
  }
  ASSERT_EQ(recorder.events().size(), 3u);
  EXPECT_EQ(recorder.dropped(), 6);
  EXPECT_STREQ(recorder.events()[2].name, "inner");
  for (const TraceRecorder::Event& e : recorder.events()) {
    EXPECT_GE(e.end, e.begin);
    EXPECT_GT(e.begin, 0);
  }
  EXPECT_GT(recorder.WaitShare(), 0);
  EXPECT_LE(recorder.WaitShare(), 1);
}

}  // namespace
}  // namespace carry
