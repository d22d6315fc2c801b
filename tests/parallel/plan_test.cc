// Predictions against hand-made cases and against what real steps do: bytes,
// memory, and the order of everything, in a time that is counted instead of
// measured.
#include "parallel/plan.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "framework/memory.h"
#include "framework/train/learner.h"
#include "gtest/gtest.h"
#include "kernels/span.h"
#include "parallel/mesh.h"
#include "recipes/rules.h"
#include "tests/framework/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/parallel/watched_communicator.h"

namespace carry {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 40;

struct Case {
  int64_t data = 1, sequence = 2;
  int64_t batch = 2, micro = 1, length = 53, chunk = 7;
  bool prefix = false, carried = false;
  int64_t budget = 0;
  config::Model model = TinyModelConfig();
};

config::Recipe MakeRecipe(const Case& c) {
  config::Recipe recipe;
  *recipe.mutable_model() = c.model;
  config::Training& training = *recipe.mutable_training();
  training.set_steps(100);
  training.set_sequence_length(c.length);
  training.set_batch_size(c.batch);
  training.set_micro_batch_size(c.micro);
  training.set_chunk_length(c.chunk);
  training.set_tape_memory_budget(c.budget);
  recipe.mutable_optimizer()->set_learning_rate(1e-3);
  if (c.carried) recipe.mutable_data()->set_packing(config::Data::CARRIED);
  recipe.mutable_parallel()->set_data(c.data);
  recipe.mutable_parallel()->set_sequence(c.sequence);
  recipe.mutable_parallel()->set_schedule(
      c.prefix ? config::Parallel::PREFIX : config::Parallel::WAVEFRONT);
  recipe.mutable_parallel()->set_audit_parameters_every(0);
  EXPECT_TRUE(ApplyRules(&recipe, "", nullptr).ok());
  return recipe;
}

RankRates SomeRates() {
  return {1e10, 1e9, 5e8, 2e9, 1e9, 1e9, 5e8, 1e10, 1e-5, 1e9};
}

// One step of this rank.
void OneStep(const Case& c, Distribution& ranks) {
  Learner learner(MakeRecipe(c), ranks);
  const TinyBatch batch(c.batch, c.length, c.model.vocab_size(), 9);
  SequenceBatch mine = batch.view;
  const Range rows = ranks.Rows(c.batch);
  mine.batch = rows.size();
  mine.tokens += rows.begin * c.length;
  mine.targets += rows.begin * c.length;
  mine.document_start += rows.begin * c.length;
  const absl::StatusOr<UpdateResult> result =
      learner.Update(mine, batch.count, 0);
  ASSERT_TRUE(result.ok()) << result.status();
}

TEST(Plan, WavefrontByHand) {
  const ChunkCosts costs = {1, 2, 0, 0};
  // One rank: 3 chunks of 2 layers, the newest keeps its tape.
  Timeline t = PlayWavefront(1, 2, 3, 1, 1, 1, costs);
  EXPECT_EQ(t.seconds, 3 * 2 + 2 * 2 + 3 * 4);
  EXPECT_EQ(t.Idle(), 0);
  t = PlayWavefront(1, 2, 3, 0.5, 4, 9, costs);
  EXPECT_EQ(t.seconds, 4 * 2.5 * (2 + 4));

  // Two ranks, a chunk each: forward 0..2 and 1..3, backward 3..7 and 5..9.
  t = PlayWavefront(2, 2, 2, 1, 1, 1, costs);
  EXPECT_EQ(t.seconds, 9);
  EXPECT_EQ(t.busy, std::vector<double>({6, 6}));
  EXPECT_NEAR(t.Idle(), 1.0 / 3, 1e-12);
  // A head of 3 on each: rank 1's delays rank 0 by what its own cannot hide.
  t = PlayWavefront(2, 2, 2, 1, 1, 1, {1, 2, 3, 0});
  EXPECT_EQ(t.seconds, 12);
  // A message of 10 each way, once forward, once backward.
  t = PlayWavefront(2, 2, 2, 1, 1, 1, {1, 2, 0, 10});
  EXPECT_EQ(t.seconds, 29);
}

// The point of several passes: more ranks than layers, and none of them idle.
TEST(Plan, PassesFillRanksBeyondTheLayers) {
  const ChunkCosts costs = {1, 2, 0, 0};
  EXPECT_GT(PlayWavefront(8, 2, 256, 1, 1, 1, costs).Idle(), 0.6);
  EXPECT_LT(PlayWavefront(8, 2, 256, 1, 16, 1, costs).Idle(), 0.03);
  EXPECT_LT(PlayWavefront(4, 4, 256, 1, 1, 1, costs).Idle(), 0.05);
}

TEST(Plan, BytesAreThoseOnTheWire) {
  std::vector<Case> cases;
  for (const bool prefix : {false, true}) {
    for (const bool carried : {false, true}) {
      for (const Case& c : {
               Case{},
               Case{.sequence = 3},
               Case{.length = 7},
               Case{.sequence = 5, .length = 9, .chunk = 1},
               Case{.sequence = 4, .length = 3, .chunk = 1},
               Case{.data = 2, .sequence = 2, .batch = 5, .micro = 2},
               Case{.data = 3, .sequence = 1},
           }) {
        cases.push_back(c);
        cases.back().prefix = prefix;
        cases.back().carried = carried;
      }
    }
  }
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.data << " x " << c.sequence << ", "
                                    << c.length << " tokens, prefix "
                                    << c.prefix << ", carried " << c.carried);
    std::mutex mutex;
    CommCounters carries, others;
    RunRanks(static_cast<int>(c.data * c.sequence),
             [&](std::unique_ptr<Communicator> comm) {
               auto mesh =
                   Mesh::Create(std::move(comm), MakeRecipe(c).parallel());
               ASSERT_TRUE(mesh.ok());
               const int64_t before[2] = {(*mesh)->sequence_counters().bytes,
                                          (*mesh)->world_counters().bytes};
               OneStep(c, **mesh);
               std::lock_guard<std::mutex> lock(mutex);
               carries.bytes += (*mesh)->sequence_counters().bytes - before[0];
               others.bytes += (*mesh)->world_counters().bytes - before[1];
             });
    const StepPlan plan = PlanStep(MakeRecipe(c), SomeRates(), kPlenty);
    EXPECT_EQ(plan.carry_bytes, carries.bytes);
    EXPECT_EQ(plan.other_bytes, others.bytes);
  }
}

TEST(Plan, MemoryIsWhatTensorsTake) {
  Case c;
  c.model.set_hidden_size(64);
  c.model.set_num_layers(4);
  c.model.set_vocab_size(64);
  c.length = 4096;
  c.chunk = 256;
  for (const Case& base : {c,
                           [&] {
                             Case d = c;
                             d.sequence = 1;
                             return d;
                           }(),
                           [&] {
                             Case d = c;
                             d.prefix = true;
                             return d;
                           }(),
                           [&] {
                             Case d = c;
                             d.micro = 2;
                             d.budget = 30 << 20;
                             return d;
                           }(),
                           [&] {
                             Case d = c;
                             d.prefix = true;
                             d.sequence = 4;
                             return d;
                           }()}) {
    SCOPED_TRACE(testing::Message() << "S=" << base.sequence << " prefix "
                                    << base.prefix << " micro " << base.micro);
    TrimMemoryCache();
    ResetMemoryPeaks();
    const int64_t before = GetTotalMemoryUse().bytes;
    RunRanks(static_cast<int>(base.sequence),
             [&](std::unique_ptr<Communicator> comm) {
               auto mesh =
                   Mesh::Create(std::move(comm), MakeRecipe(base).parallel());
               ASSERT_TRUE(mesh.ok());
               OneStep(base, **mesh);
             });
    const double measured =
        static_cast<double>(GetTotalMemoryUse().peak - before) /
        static_cast<double>(base.sequence);
    const MemoryPlan plan = PlanTrainingMemory(MakeRecipe(base));
    // What is in flight between threads is not a tensor.
    const auto planned = static_cast<double>(plan.total() - plan.tokens);
    EXPECT_LT(measured, 1.2 * planned) << plan.ToString();
    EXPECT_GT(measured, 0.7 * planned) << plan.ToString();
  }
}

// A rank's clock: a layer forward takes 1, backward 2, and what arrives is no
// earlier than it was sent.
class Counted : public SpanObserver {
 public:
  void Begin(const SpanInfo& info) override {
    names_.push_back(info.name);
    const std::string name = info.name;
    if (name == "layer") {
      due_ = std::string(info.direction) == "forward" ? 1 : 2;
    } else if (name == "send carry") {
      Settle();
    }
  }
  void End() override {
    if (std::string(names_.back()) == "layer") Settle();
    names_.pop_back();
  }
  void Settle() {
    now += due_;
    busy += due_;
    due_ = 0;
  }
  double now = 0, busy = 0;

 private:
  std::vector<const char*> names_;
  double due_ = 0;
};

// What ranks do is what the planner plays, step for step.
TEST(Plan, RealStepsTakeTheTimeOfThePlay) {
  for (const Case& c : {
           Case{.sequence = 2, .length = 40, .chunk = 10},
           Case{.sequence = 3, .length = 70, .chunk = 7},
           Case{.sequence = 5, .batch = 6, .length = 70, .chunk = 7},
           Case{.sequence = 8, .batch = 9, .length = 160, .chunk = 10},
           Case{.sequence = 4,
           .batch = 5,
           .length = 80,
           .chunk = 10,
           .budget = 1 << 17},
       }) {
    SCOPED_TRACE(testing::Message() << "S=" << c.sequence);
    // When each message was sent, in the order of its kind.
    using Key = std::tuple<int, int, std::string>;
    std::mutex mutex;
    std::map<Key, std::vector<double>> sent;
    double end = 0, busy = 0;
    RunRanks(
        static_cast<int>(c.sequence), [&](std::unique_ptr<Communicator> comm) {
          const int me = comm->rank();
          auto clock = std::make_shared<Counted>();
          auto watcher = std::make_shared<MessageWatcher>();
          auto got = std::make_shared<std::map<Key, size_t>>();
          watcher->sending = [&, clock, me](const CommLabel& label, int to) {
            if (std::string(label.operation) != "carry") return true;
            std::lock_guard<std::mutex> lock(mutex);
            sent[{me, to, label.ToString()}].push_back(clock->now);
            return true;
          };
          watcher->received = [&, clock, got, me](const CommLabel& label,
                                                  int from, void*, int64_t) {
            if (std::string(label.operation) != "carry") return;
            std::lock_guard<std::mutex> lock(mutex);
            const Key key(from, me, label.ToString());
            clock->now = std::max(clock->now, sent[key][(*got)[key]++]);
          };
          auto mesh = Mesh::Create(
              std::make_unique<WatchedCommunicator>(std::move(comm), watcher),
              MakeRecipe(c).parallel());
          ASSERT_TRUE(mesh.ok());
          SetSpanObserver(clock.get());
          OneStep(c, **mesh);
          SetSpanObserver(nullptr);
          std::lock_guard<std::mutex> lock(mutex);
          end = std::max(end, clock->now);
          busy += clock->busy;
        });
    const LanguageModel model(c.model, DType::kF32);
    const Timeline play = PlayWavefront(
        c.sequence, model.layers(), (c.length + c.chunk - 1) / c.chunk, 1,
        c.batch, KeptTapes(model, c.micro, c.chunk, c.budget), {1, 2, 0, 0});
    EXPECT_EQ(end, play.seconds);
    EXPECT_NEAR(1 - busy / (end * static_cast<double>(c.sequence)), play.Idle(),
                1e-9);
  }
}

TEST(Plan, AutoTakesWhatIsFasterAndFits) {
  // Two chunks over 8 ranks: most of a wavefront would have nothing to do.
  Case c{.sequence = 8, .batch = 1, .length = 4096, .chunk = 2048};
  ScheduleChoice choice = ChooseSchedule(MakeRecipe(c), SomeRates(), kPlenty);
  EXPECT_EQ(choice.schedule, config::Parallel::PREFIX) << choice.why;
  // Many chunks: what PREFIX adds is more than the wavefront's fill.
  c.length = 1 << 20;
  c.sequence = 2;
  RankRates rates = SomeRates();
  rates.summary = rates.scan_forward;
  rates.gradient_summary = rates.scan_backward;
  choice = ChooseSchedule(MakeRecipe(c), rates, kPlenty);
  EXPECT_EQ(choice.schedule, config::Parallel::WAVEFRONT) << choice.why;
  // Only one fits.
  c = Case{.sequence = 8, .batch = 1, .length = 1 << 16, .chunk = 1 << 15};
  const int64_t chunks = PlanTrainingMemory(MakeRecipe(c)).total();
  EXPECT_EQ(ChooseSchedule(MakeRecipe(c), SomeRates(), kPlenty).schedule,
            config::Parallel::PREFIX);
  c.chunk = 64;
  c.sequence = 2;
  const int64_t streamed = PlanTrainingMemory(MakeRecipe(c)).total();
  ASSERT_LT(streamed, chunks);
  choice = ChooseSchedule(MakeRecipe(c), SomeRates(), streamed);
  EXPECT_EQ(choice.schedule, config::Parallel::WAVEFRONT);
  EXPECT_NE(choice.why.find("PREFIX is out: needs"), std::string::npos)
      << choice.why;
}

TEST(Plan, MemoryIsCheckedAgainstBudgetAndShare) {
  Case c;
  config::Recipe recipe = MakeRecipe(c);
  const MemoryPlan plan = PlanTrainingMemory(recipe);
  EXPECT_TRUE(CheckMemory(plan, recipe, plan.total(), 4).ok());
  absl::Status status = CheckMemory(plan, recipe, plan.total() - 1, 4);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  for (const char* part :
       {"each of 4 ranks", "training.chunk_length", "edge carries"}) {
    EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
  }
  recipe.mutable_parallel()->set_memory_budget(plan.total() - 1);
  status = CheckMemory(plan, recipe, kPlenty, 1);
  EXPECT_NE(status.message().find("allowed by parallel.memory_budget"),
            absl::string_view::npos)
      << status;
  recipe.mutable_parallel()->set_schedule(config::Parallel::PREFIX);
  recipe.mutable_parallel()->set_memory_budget(1000);
  status = CheckMemory(PlanTrainingMemory(recipe), recipe, kPlenty, 1);
  EXPECT_NE(status.message().find("layer inputs: they grow with the shard"),
            absl::string_view::npos)
      << status;
}

}  // namespace
}  // namespace carry
