#include "framework/data/batches.h"

#include <map>
#include <numeric>
#include <set>
#include <thread>

#include "framework/random.h"
#include "tests/framework/temp_dir.h"

namespace carry {
namespace {

// Documents whose tokens say where they come from: the token at `offset` of
// document d has the id 1000 d + offset.
class BatchesTest : public testing::Test {
 protected:
  void MakeCorpus(const std::vector<int64_t>& lengths) {
    const std::string path = dir_ / "t";
    auto writer = TokenFileWriter::Create(path, 1 << 20, "bytes");
    ASSERT_TRUE(writer.ok()) << writer.status();
    for (size_t d = 0; d < lengths.size(); ++d) {
      std::vector<int32_t> ids(lengths[d]);
      for (size_t i = 0; i < ids.size(); ++i) {
        ids[i] = static_cast<int32_t>(1000 * d + i);
      }
      ASSERT_STATUS_OK(writer->AddDocument(ids));
    }
    ASSERT_STATUS_OK(writer->Commit());
    auto corpus = Corpus::Open({{path, "t", 1}}, wide_);
    ASSERT_TRUE(corpus.ok()) << corpus.status();
    corpus_ = std::move(*corpus);
    lengths_ = lengths;
  }

  std::unique_ptr<BatchStream> Stream(const BatchOptions& options) {
    auto stream = BatchStream::Create(*corpus_, options);
    EXPECT_TRUE(stream.ok()) << stream.status();
    return std::move(*stream);
  }

  // The target that the token must have.
  int32_t TargetOf(int32_t id) const {
    return id % 1000 + 1 < lengths_[id / 1000] ? id + 1 : -1;
  }

  class WideTokenizer : public Tokenizer {
   public:
    int64_t vocab_size() const override { return 1 << 20; }
    const std::string& fingerprint() const override { return name_; }
    bool text_only() const override { return false; }
    absl::StatusOr<std::vector<int32_t>> Encode(
        absl::string_view) const override {
      return absl::UnimplementedError("");
    }
    absl::StatusOr<std::string> Decode(
        absl::Span<const int32_t>) const override {
      return absl::UnimplementedError("");
    }
    std::unique_ptr<StreamDecoder> NewStreamDecoder() const override {
      return nullptr;
    }

   private:
    std::string name_ = "bytes";
  };

  TempDir dir_;
  WideTokenizer wide_;
  std::vector<int64_t> lengths_;
  std::unique_ptr<const Corpus> corpus_;
};

// The first tokens of step k, row b, in the corpus's order.
TEST_F(BatchesTest, PackedByHand) {
  MakeCorpus({3, 1, 4});
  const auto stream = Stream({3, 2, Packing::kPacked, false, 0});
  const Batch first = stream->Get(0);
  EXPECT_EQ(first.tokens, (std::vector<int32_t>{0, 1, 2, 1000, 2000, 2001}));
  EXPECT_EQ(first.targets, (std::vector<int32_t>{1, 2, -1, -1, 2001, 2002}));
  EXPECT_EQ(first.document_start, (std::vector<uint8_t>{1, 0, 0, 1, 1, 0}));
  EXPECT_EQ(first.num_targets, 4);
  // The document goes on in the next sample, then the next epoch begins.
  const Batch second = stream->Get(1);
  EXPECT_EQ(second.tokens, (std::vector<int32_t>{2002, 2003, 0, 1, 2, 1000}));
  EXPECT_EQ(second.targets, (std::vector<int32_t>{2003, -1, 1, 2, -1, -1}));
  EXPECT_EQ(second.document_start, (std::vector<uint8_t>{1, 0, 1, 1, 0, 1}));
  EXPECT_EQ(second.num_targets, 3);
}

TEST_F(BatchesTest, CarriedByHand) {
  MakeCorpus({3, 1, 5});
  // Nine tokens: spans [0, 4) and [4, 9).
  const auto stream = Stream({3, 2, Packing::kCarried, false, 0});
  const Batch first = stream->Get(0);
  EXPECT_EQ(first.tokens, (std::vector<int32_t>{0, 1, 2, 2000, 2001, 2002}));
  EXPECT_EQ(first.targets, (std::vector<int32_t>{1, 2, -1, 2001, 2002, 2003}));
  EXPECT_EQ(first.document_start, (std::vector<uint8_t>{1, 0, 0, 1, 0, 0}));
  // Row 1 goes on inside its document; each row enters the next epoch where
  // its own span ends.
  const Batch second = stream->Get(1);
  EXPECT_EQ(second.tokens,
            (std::vector<int32_t>{1000, 0, 1, 2003, 2004, 2000}));
  EXPECT_EQ(second.targets, (std::vector<int32_t>{-1, 1, 2, 2004, -1, 2001}));
  EXPECT_EQ(second.document_start, (std::vector<uint8_t>{1, 1, 0, 0, 0, 1}));
}

TEST_F(BatchesTest, CarriedSpansMayCutADocument) {
  MakeCorpus({10});
  const auto stream = Stream({5, 2, Packing::kCarried, true, 3});
  const Batch batch = stream->Get(0);
  EXPECT_EQ(batch.tokens, (std::vector<int32_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}));
  // Across the cut the next token is known.
  EXPECT_EQ(batch.targets,
            (std::vector<int32_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, -1}));
  EXPECT_EQ(batch.document_start,
            (std::vector<uint8_t>{1, 0, 0, 0, 0, 1, 0, 0, 0, 0}));
  EXPECT_EQ(stream->Get(1).tokens, batch.tokens);
  EXPECT_EQ(stream->Get(1).document_start, batch.document_start);
}

// Odd lengths, so that nothing divides anything.
const std::vector<int64_t> kLengths = {7, 1, 31, 2, 13, 1, 1, 64, 5, 100, 17};
constexpr int64_t kTotal = 242;

std::vector<BatchOptions> Cases() {
  std::vector<BatchOptions> cases;
  for (const Packing packing : {Packing::kPacked, Packing::kCarried}) {
    for (const bool shuffle : {false, true}) {
      for (const int64_t length : {1, 3, 16, 100, 600}) {
        for (const int64_t batch : {1, 2, 5}) {
          cases.push_back({length, batch, packing, shuffle, 42});
        }
      }
    }
  }
  return cases;
}

std::string Describe(const BatchOptions& o) {
  return "L " + std::to_string(o.sequence_length) + " B " +
         std::to_string(o.batch_size) +
         (o.packing == Packing::kPacked ? " packed" : " carried") +
         (o.shuffle ? " shuffled" : "");
}

TEST_F(BatchesTest, EveryTokenOfAnEpochOnce) {
  MakeCorpus(kLengths);
  for (const BatchOptions& o : Cases()) {
    SCOPED_TRACE(Describe(o));
    const auto stream = Stream(o);
    const int64_t epochs = 3;
    // What each reader (a row of CARRIED, the one stream of PACKED) reads.
    std::vector<std::vector<int32_t>> read(
        o.packing == Packing::kPacked ? 1 : o.batch_size);
    const int64_t steps =
        (epochs * kTotal) / (o.sequence_length * o.batch_size) + 2;
    for (int64_t k = 0; k < steps; ++k) {
      const Batch batch = stream->Get(k);
      int64_t targets = 0;
      for (int64_t b = 0; b < o.batch_size; ++b) {
        auto& list = read[o.packing == Packing::kPacked ? 0 : b];
        for (int64_t t = 0; t < o.sequence_length; ++t) {
          const int64_t i = b * o.sequence_length + t;
          const int32_t id = batch.tokens[i];
          list.push_back(id);
          ASSERT_EQ(batch.targets[i], TargetOf(id));
          targets += batch.targets[i] >= 0;
          // Inside a sequence a document goes on token by token.
          if (batch.document_start[i] == 0) {
            if (t > 0) {
              ASSERT_EQ(id, batch.tokens[i - 1] + 1);
            } else {
              ASSERT_EQ(o.packing, Packing::kCarried);
              ASSERT_GT(k, 0);
            }
          }
          if (id % 1000 == 0) {
            ASSERT_EQ(batch.document_start[i], 1);
          }
        }
        if (o.packing == Packing::kPacked) {
          ASSERT_EQ(batch.document_start[b * o.sequence_length], 1);
        }
      }
      ASSERT_EQ(batch.num_targets, targets);
      ASSERT_EQ(stream->NumTargets(k), targets);
    }
    // Shuffled samples are no epochs in a row; the next test is theirs.
    if (o.packing == Packing::kPacked && o.shuffle) continue;
    for (int64_t e = 0; e < epochs; ++e) {
      std::map<int32_t, int> seen;
      for (size_t r = 0; r < read.size(); ++r) {
        const int64_t n = static_cast<int64_t>(read.size());
        const int64_t span = kTotal * (r + 1) / n - kTotal * r / n;
        for (int64_t i = e * span; i < (e + 1) * span; ++i) {
          ASSERT_LT(i, static_cast<int64_t>(read[r].size()));
          ++seen[read[r][i]];
        }
      }
      ASSERT_EQ(seen.size(), static_cast<size_t>(kTotal)) << "epoch " << e;
    }
  }
}

// Whole blocks of N / L samples that make up whole epochs: every token comes
// equally often, in another order than without the shuffle.
TEST_F(BatchesTest, ShuffledSamplesReadEveryTokenEquallyOften) {
  MakeCorpus(kLengths);
  for (const int64_t length : {1, 3, 16, 100, 600}) {
    SCOPED_TRACE(length);
    const auto stream = Stream({length, 1, Packing::kPacked, true, 5});
    const int64_t block = std::max<int64_t>(1, kTotal / length);
    const int64_t blocks = kTotal / std::gcd(kTotal, block * length);
    std::map<int32_t, int64_t> seen;
    for (int64_t k = 0; k < blocks * block; ++k) {
      for (int32_t id : stream->Get(k).tokens) ++seen[id];
    }
    ASSERT_EQ(seen.size(), static_cast<size_t>(kTotal));
    for (const auto& [id, count] : seen) {
      ASSERT_EQ(count, blocks * block * length / kTotal) << id;
    }
  }
  // The samples of one long document are not neighbours.
  MakeCorpus({1000});
  const auto stream = Stream({10, 1, Packing::kPacked, true, 5});
  int64_t neighbours = 0;
  for (int64_t k = 0; k < 99; ++k) {
    neighbours += stream->Get(k + 1).tokens[0] == stream->Get(k).tokens[9] + 1;
  }
  EXPECT_LT(neighbours, 8);
}

// A carry that goes on must find the token after the last one of its row.
TEST_F(BatchesTest, CarriedRowsGoOnAcrossSteps) {
  MakeCorpus(kLengths);
  for (const BatchOptions& o : Cases()) {
    if (o.packing != Packing::kCarried) continue;
    SCOPED_TRACE(Describe(o));
    const auto stream = Stream(o);
    Batch last = stream->Get(0);
    int64_t continued = 0;
    for (int64_t k = 1; k < 20; ++k) {
      const Batch next = stream->Get(k);
      for (int64_t b = 0; b < o.batch_size; ++b) {
        const int64_t first = b * o.sequence_length;
        const int64_t end = first + o.sequence_length - 1;
        if (next.document_start[first] != 0) continue;
        ++continued;
        EXPECT_EQ(next.tokens[first], last.tokens[end] + 1);
      }
      last = next;
    }
    EXPECT_GT(continued, 0);
  }
}

TEST_F(BatchesTest, PartsEqualTheWhole) {
  MakeCorpus(kLengths);
  for (const BatchOptions& o : Cases()) {
    SCOPED_TRACE(Describe(o));
    const auto stream = Stream(o);
    for (const int64_t k : {0, 1, 7}) {
      const Batch whole = stream->Get(k);
      for (const int64_t chunk : {1, 4, 7, 33, 600}) {
        if (chunk > o.sequence_length) continue;
        Batch parts = whole;
        std::fill(parts.tokens.begin(), parts.tokens.end(), -7);
        std::fill(parts.targets.begin(), parts.targets.end(), -7);
        std::fill(parts.document_start.begin(), parts.document_start.end(), 9);
        int64_t targets = 0;
        for (int64_t b = 0; b < o.batch_size; b += 2) {
          for (int64_t t = 0; t < o.sequence_length; t += chunk) {
            const int64_t at = b * o.sequence_length + t;
            targets +=
                stream->Fill(k, b, std::min<int64_t>(2, o.batch_size - b), t,
                             std::min(chunk, o.sequence_length - t),
                             {&parts.tokens[at], &parts.targets[at],
                              &parts.document_start[at], o.sequence_length});
          }
        }
        EXPECT_EQ(parts.tokens, whole.tokens);
        EXPECT_EQ(parts.targets, whole.targets);
        EXPECT_EQ(parts.document_start, whole.document_start);
        EXPECT_EQ(targets, whole.num_targets);
      }
    }
  }
}

// PACKED: the same samples, however many make a step.
TEST_F(BatchesTest, SamplesDoNotDependOnTheBatchSize) {
  MakeCorpus(kLengths);
  const auto one = Stream({16, 1, Packing::kPacked, true, 9});
  const auto six = Stream({16, 6, Packing::kPacked, true, 9});
  for (int64_t k = 0; k < 10; ++k) {
    const Batch batch = six->Get(k);
    for (int64_t b = 0; b < 6; ++b) {
      const Batch sample = one->Get(k * 6 + b);
      EXPECT_TRUE(std::equal(sample.tokens.begin(), sample.tokens.end(),
                             batch.tokens.begin() + b * 16));
    }
  }
}

TEST_F(BatchesTest, StepsMayBeAskedForInAnyOrder) {
  MakeCorpus(kLengths);
  const BatchOptions o = {16, 3, Packing::kCarried, true, 5};
  const auto forward = Stream(o);
  const auto backward = Stream(o);
  std::vector<Batch> batches;
  batches.reserve(40);
  for (int64_t k = 0; k < 40; ++k) batches.push_back(forward->Get(k));
  for (int64_t k = 39; k >= 0; --k) {
    EXPECT_EQ(backward->Get(k).tokens, batches[k].tokens);
  }
  // And from several threads.
  std::vector<std::thread> threads;
  threads.reserve(4);
  std::vector<int> wrong(4);
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int64_t j = 0; j < 40; ++j) {
        const int64_t k = (j * 17 + i * 11) % 40;
        wrong[i] += backward->Get(k).tokens != batches[k].tokens;
      }
    });
  }
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST_F(BatchesTest, TheShuffleDependsOnSeedAndEpoch) {
  MakeCorpus(std::vector<int64_t>(50, 1));
  const auto order = [&](uint64_t seed, int64_t epoch, bool shuffle = true) {
    return Stream({50, 1, Packing::kPacked, shuffle, seed})->Get(epoch).tokens;
  };
  std::vector<int32_t> in_order;
  in_order.reserve(50);
  for (int i = 0; i < 50; ++i) in_order.push_back(i * 1000);
  EXPECT_EQ(order(1, 0, false), in_order);
  EXPECT_EQ(order(1, 5, false), in_order);
  EXPECT_EQ(order(1, 0), order(1, 0));
  EXPECT_NE(order(1, 0), in_order);
  EXPECT_NE(order(1, 0), order(1, 1));
  EXPECT_NE(order(1, 0), order(2, 0));
  // Every document comes first at some time: 2000 draws of one in fifty.
  std::map<int32_t, int> first;
  for (int64_t e = 0; e < 2000; ++e) ++first[order(3, e)[0]];
  EXPECT_EQ(first.size(), 50u);
  for (const auto& [id, count] : first) EXPECT_NEAR(count, 40, 35) << id;
}

TEST_F(BatchesTest, LargeSteps) {
  MakeCorpus(kLengths);
  for (const Packing packing : {Packing::kPacked, Packing::kCarried}) {
    const auto stream = Stream({16, 3, packing, true, 5});
    const Batch batch = stream->Get(stream->max_steps() - 1);
    for (size_t i = 0; i < batch.tokens.size(); ++i) {
      EXPECT_EQ(batch.targets[i], TargetOf(batch.tokens[i]));
    }
  }
}

TEST_F(BatchesTest, Errors) {
  MakeCorpus({3, 4});
  const auto error = [&](int64_t length, int64_t batch, Packing packing) {
    return BatchStream::Create(*corpus_, {length, batch, packing, true, 0})
        .status();
  };
  EXPECT_ERROR(error(0, 1, Packing::kPacked), "must be at least 1");
  EXPECT_ERROR(error(1, 0, Packing::kPacked), "must be at least 1");
  EXPECT_ERROR(error(-1, 1, Packing::kPacked), "must be at least 1");
  EXPECT_ERROR(error(int64_t{1} << 40, int64_t{1} << 40, Packing::kPacked),
               "more than 2^48 tokens");
  EXPECT_ERROR(error(1, 8, Packing::kCarried),
               "7 tokens, which cannot be cut into training.batch_size = 8");
  EXPECT_STATUS_OK(error(1, 7, Packing::kCarried));
  EXPECT_STATUS_OK(error(1, 8, Packing::kPacked));
}

TEST_F(BatchesTest, PositionsSurviveJson) {
  MakeCorpus(kLengths);
  for (const Packing packing : {Packing::kPacked, Packing::kCarried}) {
    const auto stream = Stream({16, 3, packing, false, ~uint64_t{0}});
    const DataPosition position = stream->Position(17);
    const auto read = DataPosition::FromJson(position.ToJson(), "p");
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(read->step, 17);
    EXPECT_STATUS_OK(stream->CheckPosition(*read));
    EXPECT_EQ(read->ToJson(), position.ToJson());
  }
}

TEST_F(BatchesTest, AnotherMeaningOfStepsIsRefused) {
  MakeCorpus(kLengths);
  const BatchOptions o = {16, 3, Packing::kPacked, true, 1};
  const DataPosition position = Stream(o)->Position(4);
  const auto check = [&](BatchOptions options) {
    return Stream(options)->CheckPosition(position);
  };
  EXPECT_STATUS_OK(check(o));
  EXPECT_ERROR(check({17, 3, Packing::kPacked, true, 1}),
               "training.sequence_length 16 (now 17)");
  EXPECT_ERROR(check({16, 4, Packing::kPacked, true, 1}),
               "training.batch_size 3 (now 4)");
  EXPECT_ERROR(check({16, 3, Packing::kCarried, true, 1}),
               "data.packing PACKED (now CARRIED)");
  EXPECT_ERROR(check({16, 3, Packing::kPacked, false, 1}), "data.shuffle 1");
  EXPECT_ERROR(check({16, 3, Packing::kPacked, true, 2}),
               "training.seed 1 (now 2)");
  DataPosition far = position;
  far.step = INT64_MAX;
  EXPECT_ERROR(Stream(o)->CheckPosition(far), "step 9223372036854775807");
  MakeCorpus({3, 4});
  EXPECT_ERROR(check(o), "data digest " + position.corpus_digest + " (now ");
}

TEST_F(BatchesTest, DamagedPositions) {
  MakeCorpus(kLengths);
  const std::string good =
      Stream({16, 3, Packing::kPacked, true, 1})->Position(4).ToJson();
  EXPECT_STATUS_OK(DataPosition::FromJson(good, "p").status());
  for (size_t n = 0; n < good.size(); ++n) {
    EXPECT_FALSE(DataPosition::FromJson(good.substr(0, n), "p").ok()) << n;
  }
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << from << " in " << good;
    text.replace(at, from.size(), to);
    return DataPosition::FromJson(text, "pos.json").status();
  };
  EXPECT_ERROR(with("\"step\":4", "\"step\":-4"), "pos.json: \"step\" must");
  EXPECT_ERROR(with("\"step\":4", "\"other\":4"), "has no \"step\"");
  EXPECT_ERROR(with("PACKED", "FOLDED"), "neither PACKED nor CARRIED");
  EXPECT_ERROR(with("true", "1"), "not true or false");
  EXPECT_ERROR(with("\"seed\":1", "\"seed\":1.5"), "\"seed\" is not a number");
  EXPECT_ERROR(with("\"corpus_digest\":\"", "\"corpus_digest\":0,\"x\":\""),
               "not a string");
  EXPECT_ERROR(DataPosition::FromJson("[]", "p").status(), "not a JSON obj");
}

}  // namespace
}  // namespace carry
