// Every mesh is the same function as one rank: loss, every gradient, final
// carries and training steps.

#include "parallel/mesh.h"

#include <map>
#include <mutex>

#include "framework/train/learner.h"
#include "gtest/gtest.h"
#include "parallel/seal.h"
#include "recipes/rules.h"
#include "tests/framework/tiny_model.h"
#include "tests/parallel/run_ranks.h"
#include "tests/parallel/watched_communicator.h"

namespace carry {
namespace {

struct Case {
  int data = 1, sequence = 1;
  int64_t batch = 2, length = 53, chunk = 7, micro = 2, mean_document = 9;
  bool carried = false;
  bool bf16 = false;
  int steps = 5;
  bool prefix = false;
  int64_t tape_memory_budget = 0;
  std::vector<int64_t> starts = {};  // in place of random documents
};

std::string Describe(const Case& c) {
  return "D=" + std::to_string(c.data) + " S=" + std::to_string(c.sequence) +
         " B=" + std::to_string(c.batch) + " L=" + std::to_string(c.length) +
         " C=" + std::to_string(c.chunk) +
         " documents=" + std::to_string(c.mean_document) +
         (c.carried ? " carried" : "") + (c.bf16 ? " bf16" : "") +
         (c.prefix ? " PREFIX" : "");
}

config::Recipe MakeRecipe(const Case& c) {
  config::Recipe recipe;
  *recipe.mutable_model() = TinyModelConfig();
  config::Training& training = *recipe.mutable_training();
  training.set_steps(100);
  training.set_sequence_length(c.length);
  training.set_batch_size(c.batch);
  training.set_micro_batch_size(c.micro);
  training.set_chunk_length(c.chunk);
  training.set_tape_memory_budget(c.tape_memory_budget);
  if (c.bf16) training.set_precision(config::Training::BF16);
  recipe.mutable_optimizer()->set_learning_rate(2e-3);
  recipe.mutable_optimizer()->set_schedule(config::Optimizer::CONSTANT);
  if (c.carried) recipe.mutable_data()->set_packing(config::Data::CARRIED);
  recipe.mutable_parallel()->set_data(c.data);
  recipe.mutable_parallel()->set_sequence(c.sequence);
  if (c.prefix) {
    recipe.mutable_parallel()->set_schedule(config::Parallel::PREFIX);
  }
  recipe.mutable_parallel()->set_audit_parameters_every(2);
  EXPECT_TRUE(ApplyRules(&recipe, "", nullptr).ok());
  return recipe;
}

struct Outcome {
  std::vector<double> losses, norms;
  std::vector<float> grads;   // after the first step, summed over ranks
  std::vector<float> values;  // after the last
  std::vector<std::vector<float>> carries;  // rows in order, by layer
};

// What one rank does; rank-independent parts of `out` come from rank 0.
void Train(const Case& c, Distribution& ranks, std::mutex& mutex,
           Outcome& out) {
  Learner learner(MakeRecipe(c), ranks);
  ParameterStore& store = learner.model().parameters();
  for (int step = 0; step < c.steps; ++step) {
    TinyBatch batch(c.batch, c.length, 37,
                    c.starts.empty() ? c.mean_document : 0, step);
    for (int64_t start : c.starts) {
      for (int64_t b = 0; b < c.batch; ++b) {
        batch.starts[b * c.length + start] = 1;
      }
    }
    SequenceBatch mine = batch.view;
    const Range rows = ranks.Rows(c.batch);
    mine.batch = rows.size();
    mine.tokens += rows.begin * c.length;
    mine.targets += rows.begin * c.length;
    mine.document_start += rows.begin * c.length;
    absl::StatusOr<UpdateResult> result =
        learner.Update(mine, batch.count, step);
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->nonfinite, "");
    std::lock_guard<std::mutex> lock(mutex);
    if (ranks.rank() == 0) {
      out.losses.push_back(result->loss);
      out.norms.push_back(result->gradient_norm);
    }
    if (step == 0) {
      out.grads.resize(store.size());
      for (const Range& shard : ranks.Shards(store.buckets())) {
        std::copy(store.grads().f32() + shard.begin,
                  store.grads().f32() + shard.end,
                  out.grads.begin() + shard.begin);
      }
    }
  }
  std::lock_guard<std::mutex> lock(mutex);
  if (ranks.rank() == 0) out.values = Values(store.values());
  const std::vector<Carry> carries = learner.GetCarries();
  if (carries.empty()) return;
  // States by row: the batch is the first dimension of every field.
  out.carries.resize(c.batch);
  const Range rows = ranks.Rows(c.batch);
  for (int64_t row = rows.begin; row < rows.end; ++row) {
    for (const Carry& carry : carries) {
      for (size_t f = 0; f < carry.fields(); ++f) {
        const Tensor& t = carry.field(f);
        const int64_t n = t.size() / t.dim(0);
        const float* x = t.f32() + (row - rows.begin) * n;
        out.carries[row].insert(out.carries[row].end(), x, x + n);
      }
    }
  }
}

Outcome OneRank(const Case& c) {
  Case alone = c;
  alone.data = alone.sequence = 1;
  Outcome out;
  std::mutex mutex;
  SingleRank ranks;
  SetNumThreads(1);
  Train(alone, ranks, mutex, out);
  return out;
}

Outcome OnMesh(const Case& c) {
  Outcome out;
  std::mutex mutex;
  RunRanks(c.data * c.sequence, [&](std::unique_ptr<Communicator> comm) {
    absl::StatusOr<std::unique_ptr<Mesh>> mesh =
        Mesh::Create(std::move(comm), MakeRecipe(c).parallel());
    ASSERT_TRUE(mesh.ok()) << mesh.status();
    Train(c, **mesh, mutex, out);
  });
  return out;
}

void ExpectSame(const Case& c) {
  SCOPED_TRACE(Describe(c));
  const Outcome want = OneRank(c), got = OnMesh(c);
  ASSERT_EQ(got.losses.size(), want.losses.size());
  const double loose = c.bf16 ? 2e-2 : 1e-5;
  // Rows run in other micro-batches when D > 1, so only S keeps the bits;
  // PREFIX adds up states in another order.
  if (c.data == 1 && !c.bf16 && !c.prefix) {
    EXPECT_EQ(got.losses[0], want.losses[0]) << "the first loss, bit for bit";
  }
  for (size_t i = 0; i < want.losses.size(); ++i) {
    EXPECT_NEAR(got.losses[i], want.losses[i], loose * want.losses[i]);
    EXPECT_NEAR(got.norms[i], want.norms[i], 10 * loose * want.norms[i]);
  }
  EXPECT_LT(RelativeError(got.grads, want.grads), loose);
  EXPECT_LT(RelativeError(got.values, want.values), 1e-2);
  ASSERT_EQ(got.carries.size(), want.carries.size());
  for (size_t row = 0; row < want.carries.size(); ++row) {
    EXPECT_LT(RelativeError(got.carries[row], want.carries[row]),
              c.bf16 ? 5e-2 : 1e-3);
  }
}

// Both schedules.
class Schedules : public ::testing::TestWithParam<bool> {
 protected:
  void Expect(Case c) {
    c.prefix = GetParam();
    ExpectSame(c);
  }
};
INSTANTIATE_TEST_SUITE_P(Mesh, Schedules, ::testing::Bool(),
                         [](const auto& info) {
                           return info.param ? "Prefix" : "Wavefront";
                         });

TEST_P(Schedules, EverySequenceSize) {
  for (int s = 1; s <= 8; ++s) {
    Case c;
    c.sequence = s;
    Expect(c);
  }
}

TEST_P(Schedules, OddSizes) {
  for (const Case& c : {
           Case{.sequence = 3, .length = 2, .chunk = 1},  // fewer than ranks
           Case{.sequence = 4, .length = 1, .chunk = 5},
           Case{.sequence = 2, .length = 29, .chunk = 1},  // below K - 1
           Case{.sequence = 5, .length = 64, .chunk = 64},
           Case{.sequence = 3, .length = 24, .chunk = 8, .mean_document = 1},
           Case{.sequence = 3, .length = 24, .chunk = 8, .mean_document = 0},
           Case{.sequence = 2, .batch = 5, .micro = 2},
       }) {
    Expect(c);
  }
}

// Halos come from several ranks, or from the initial carry through them.
TEST_P(Schedules, ShardsBelowTheConvolution) {
  for (int s : {4, 5, 7, 8}) {
    for (int documents : {0, 3}) {
      for (bool carried : {false, true}) {
        Expect(Case{.sequence = s,
                    .length = 9,
                    .chunk = 1,
                    .mean_document = documents,
                    .carried = carried});
      }
    }
  }
}

TEST_P(Schedules, DocumentsAtShardEdges) {
  // Edges of the shards of 24 tokens over 3 ranks, and beside them.
  for (const std::vector<int64_t>& starts : std::vector<std::vector<int64_t>>{
           {8}, {16}, {7, 15}, {9, 17}, {8, 16}}) {
    Expect(Case{.sequence = 3, .length = 24, .chunk = 8, .starts = starts});
  }
}

TEST_P(Schedules, CarriesGoOnFromStepToStep) {
  for (int s : {2, 3, 4}) {
    Expect(
        Case{.sequence = s, .batch = 3, .mean_document = 0, .carried = true});
  }
}

TEST_P(Schedules, Bf16) { Expect(Case{.sequence = 3, .bf16 = true}); }

TEST_P(Schedules, KeptTapes) {
  Expect(Case{.sequence = 3, .tape_memory_budget = 1 << 30});
}

TEST_P(Schedules, DataAndSequence) {
  Expect(Case{.data = 2, .sequence = 2, .batch = 5});
  Expect(Case{.data = 2,
              .sequence = 3,
              .batch = 4,
              .mean_document = 0,
              .carried = true});
}

// Several micro-batches run through the ranks together, also where there are
// more ranks than layers (3) or than chunks.
TEST_P(Schedules, SeveralPasses) {
  for (int s : {2, 3, 5, 8}) {
    for (int64_t budget : {0, 40000, 1 << 30}) {
      Expect(Case{
          .sequence = s, .batch = 7, .micro = 1, .tape_memory_budget = budget});
    }
    Expect(Case{.sequence = s,
                .batch = 5,
                .micro = 2,
                .mean_document = 0,
                .carried = true});
  }
  Expect(Case{.data = 2, .sequence = 4, .batch = 5, .micro = 1});
}

TEST(Mesh, Data) {
  ExpectSame(Case{.data = 2, .batch = 4});
  ExpectSame(Case{.data = 3, .batch = 2});  // a rank without rows
}

TEST_P(Schedules, SameMeshSameBits) {
  const Case c{.data = 2, .sequence = 3, .batch = 4, .prefix = GetParam()};
  const Outcome a = OnMesh(c), b = OnMesh(c);
  EXPECT_TRUE(a.values == b.values);
  EXPECT_TRUE(a.losses == b.losses);
}

TEST(Mesh, OptimizerStateIsShared) {
  const LanguageModel model(TinyModelConfig(), DType::kF32);
  RunRanks(4, [&](std::unique_ptr<Communicator> comm) {
    config::Parallel config;
    config.set_data(2);
    config.set_sequence(2);
    auto mesh = Mesh::Create(std::move(comm), config);
    ASSERT_TRUE(mesh.ok());
    int64_t mine = 0;
    for (const Range& r : (*mesh)->Shards(model.parameters().buckets())) {
      EXPECT_EQ(r.begin % 16, 0);
      mine += r.size();
    }
    const int64_t all = model.parameters().size();
    EXPECT_NEAR(mine, all / 4.0, 64 * 5);
    std::vector<double> total = {static_cast<double>(mine)};
    ASSERT_TRUE((*mesh)->Sum(total).ok());
    EXPECT_EQ(total[0], all);
  });
}

// What all ranks sent for carries in one step.
double CarryBytes(const Case& c) {
  std::mutex mutex;
  Outcome out;
  double bytes = 0;
  RunRanks(c.sequence, [&](std::unique_ptr<Communicator> comm) {
    auto mesh = Mesh::Create(std::move(comm), MakeRecipe(c).parallel());
    ASSERT_TRUE(mesh.ok());
    const int64_t before = (*mesh)->sequence_counters().bytes;
    Train(c, **mesh, mutex, out);
    std::vector<double> sent = {
        static_cast<double>((*mesh)->sequence_counters().bytes - before)};
    ASSERT_TRUE((*mesh)->Sum(sent).ok());
    std::lock_guard<std::mutex> lock(mutex);
    bytes = sent[0];
  });
  return bytes;
}

constexpr double kLayers = 3, kInner = 24, kStates = 5, kTaps = 4;

TEST(Wavefront, CarryBytesAreWhatTheDesignSays) {
  // B E (N + K - 1) 4 a layer and chunk edge, in each direction, and the seal.
  const Case c{
      .sequence = 2, .batch = 2, .length = 40, .chunk = 10, .steps = 1};
  const double edges = 3;
  EXPECT_EQ(CarryBytes(c), 2 * kLayers * edges *
                               (2 * kInner * (kStates + kTaps - 1) * 4 + 32));
}

TEST(Prefix, CarryBytesAreWhatTheDesignSays) {
  // A layer, in each direction: a summary of B E (N + 1) 4 from each rank to
  // each other, and a halo of B E (K - 1) 4 across each edge, all sealed.
  for (double s : {2, 3}) {
    const Case c{.sequence = static_cast<int>(s),
                 .batch = 2,
                 .length = 40,
                 .steps = 1,
                 .prefix = true};
    EXPECT_EQ(CarryBytes(c),
              2 * kLayers *
                  (s * (s - 1) * (2 * kInner * (kStates + 1) * 4 + 32) +
                   (s - 1) * (2 * kInner * (kTaps - 1) * 4 + 32)));
  }
}

// The audit: harm is found by the rank that it reaches, and named.
struct Harm {
  const char* name;
  bool prefix;
  const char* operation;
  const char* direction;
  const char* error;
};

class Audit : public ::testing::TestWithParam<Harm> {
 protected:
  // Trains on 2 ranks where rank 1 `received` what it watches; its error.
  static std::string Train(
      const Harm& harm,
      const std::function<void(void* data, int64_t bytes)>& received) {
    const Case c{
        .sequence = 2, .length = 40, .chunk = 10, .prefix = harm.prefix};
    std::mutex mutex;
    std::string error;
    RunRanks(
        2,
        [&](std::unique_ptr<Communicator> comm) {
          const int me = comm->rank();
          auto watcher = std::make_shared<MessageWatcher>();
          const int victim = std::string(harm.direction) == "forward" ? 1 : 0;
          if (me == victim) {
            watcher->received = [&, n = 0](const CommLabel& label, int,
                                           void* data, int64_t bytes) mutable {
              if (std::string(harm.operation) == label.operation &&
                  std::string(harm.direction) == label.direction && ++n > 2) {
                received(data, bytes);
              }
            };
          }
          auto mesh = Mesh::Create(
              std::make_unique<WatchedCommunicator>(std::move(comm), watcher),
              MakeRecipe(c).parallel());
          ASSERT_TRUE(mesh.ok());
          Learner learner(MakeRecipe(c), **mesh);
          const TinyBatch batch(c.batch, c.length, 37, c.mean_document);
          for (int step = 0; step < 2; ++step) {
            absl::StatusOr<UpdateResult> result =
                learner.Update(batch.view, batch.count, step);
            if (result.ok()) continue;
            std::lock_guard<std::mutex> lock(mutex);
            if (me == victim) error = std::string(result.status().message());
            return;
          }
        },
        1);
    return error;
  }
};

const Harm kHarms[] = {
    Harm{"Carry", false, "carry", "forward",
         "rank 1: what came from rank 0 as carry, layer 2, chunk 1, "
         "forward"},
    Harm{"CarryGradient", false, "carry", "backward",
         "rank 0: what came from rank 1 as carry, layer 0, chunk 2, "
         "backward"},
    Harm{"Halo", true, "halo", "forward",
         "rank 1: what came from rank 0 as halo, layer 2, chunk 0, "
         "forward"},
    Harm{"HaloGradient", true, "halo gradient", "backward",
         "rank 0: what came from rank 1 as halo gradient, layer 0, chunk "
         "1, backward"},
    Harm{"Summary", true, "summary", "forward",
         "rank 1: what came from rank 0 as summary, layer 2, chunk 0, "
         "forward"},
    Harm{"GradientSummary", true, "gradient summary", "backward",
         "rank 0: what came from rank 1 as gradient summary, layer 0, "
         "chunk 1, backward"},
};
INSTANTIATE_TEST_SUITE_P(Mesh, Audit, ::testing::ValuesIn(kHarms),
                         [](const auto& info) { return info.param.name; });
// A waiting rank takes its time: what is the same for all is tried on two.
class AuditOfStates : public Audit {};
INSTANTIATE_TEST_SUITE_P(Mesh, AuditOfStates,
                         ::testing::Values(kHarms[0], kHarms[4]),
                         [](const auto& info) { return info.param.name; });

TEST_P(Audit, AChangedNumberIsFound) {
  const std::string error = Train(GetParam(), [](void* data, int64_t) {
    static_cast<float*>(data)[5] += 1e-3f;
  });
  EXPECT_NE(error.find(GetParam().error), std::string::npos) << error;
  EXPECT_NE(error.find("another checksum"), std::string::npos) << error;
}

// As where a rank starts from nothing.
TEST_P(AuditOfStates, ZerosAreFound) {
  const std::string error = Train(GetParam(), [](void* data, int64_t bytes) {
    std::fill_n(static_cast<char*>(data), bytes - kSealBytes, 0);
  });
  EXPECT_NE(error.find(GetParam().error), std::string::npos) << error;
}

// A message that was right once: that of the layer before.
TEST_P(AuditOfStates, AnotherMessageIsFound) {
  std::vector<char> kept;
  const std::string error = Train(GetParam(), [&](void* data, int64_t bytes) {
    char* const at = static_cast<char*>(data);
    std::vector<char> now(at, at + bytes);
    if (static_cast<int64_t>(kept.size()) == bytes) {
      std::copy(kept.begin(), kept.end(), at);
    }
    kept = std::move(now);
  });
  EXPECT_NE(error.find("it is marked"), std::string::npos) << error;
  EXPECT_EQ(error.find("another checksum"), std::string::npos) << error;
}

TEST(Mesh, RefusesAWorldOfAnotherSize) {
  RunRanks(3, [](std::unique_ptr<Communicator> comm) {
    config::Parallel config;
    config.set_data(2);
    config.set_sequence(2);
    auto mesh = Mesh::Create(std::move(comm), config);
    ASSERT_FALSE(mesh.ok());
    EXPECT_NE(mesh.status().message().find("mpirun -n 4"),
              absl::string_view::npos)
        << mesh.status();
  });
}

TEST(Mesh, NamesTheOddRank) {
  RunRanks(4, [](std::unique_ptr<Communicator> comm) {
    config::Parallel config;
    config.set_data(4);
    config.set_sequence(1);
    auto mesh = Mesh::Create(std::move(comm), config);
    ASSERT_TRUE(mesh.ok());
    EXPECT_TRUE((*mesh)->CheckEqual("recipe", "same").ok());
    const absl::Status status =
        (*mesh)->CheckEqual("recipe", (*mesh)->rank() == 2 ? "other" : "same");
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_NE(status.message().find("rank 2 has another recipe"),
              absl::string_view::npos)
        << status;
  });
}

}  // namespace
}  // namespace carry
