// Exactness of the streamed pass: whatever the chunk length, the loss, every
// gradient and the carries are those of the whole sequence at once.

#include "framework/train/streamed_pass.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <utility>
#include <vector>

#include "framework/memory.h"
#include "framework/train/learner.h"
#include "framework/train/memory_plan.h"
#include "gtest/gtest.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

struct Outcome {
  double nll = 0;
  std::vector<double> chunk_nll;
  std::map<std::string, std::vector<float>> grads;
  std::vector<std::vector<float>> final_carries, initial_grads;
};

struct Case {
  int64_t batch = 2, length = 29, mean_document = 6;
  bool initial = true;  // a carry comes in, and its gradient is wanted
  DType dtype = DType::kF32;
};

Outcome RunCase(const Case& c, int64_t chunk_length, int64_t budget) {
  auto model = TinyModel(c.dtype);
  model->parameters().ZeroGrads();
  const TinyBatch batch(c.batch, c.length, 37, c.mean_document);
  const std::vector<ChunkSpan> spans = CutIntoChunks(c.length, chunk_length);
  std::vector<Carry> initial, final_grad;
  if (c.initial) {
    initial = RandomCarries(*model, c.batch, 3);
    final_grad = RandomCarries(*model, c.batch, 4);
  }
  LocalCarryExchange exchange(model->layers(), spans.size(), initial, c.initial,
                              final_grad);
  StreamedPassOptions options;
  options.loss_weight = 1.0f;
  options.tape_memory_budget = budget;
  absl::StatusOr<std::vector<double>> nll =
      RunStreamedPass(*model, batch.view, spans, exchange, options);
  EXPECT_TRUE(nll.ok()) << nll.status();
  Outcome out;
  out.chunk_nll = *nll;
  for (double x : *nll) out.nll += x;
  for (const auto& p : model->parameters().parameters()) {
    out.grads[p->name()] = Values(p->grad());
  }
  for (const Carry& carry : exchange.final()) {
    out.final_carries.push_back(Values(carry.flat()));
  }
  if (c.initial) {
    for (const Carry& carry : exchange.initial_grad()) {
      out.initial_grads.push_back(Values(carry.flat()));
    }
  }
  return out;
}

void ExpectClose(const Outcome& a, const Outcome& b, double tolerance) {
  EXPECT_NEAR(a.nll, b.nll, tolerance * std::abs(b.nll));
  for (const auto& [name, grad] : b.grads) {
    EXPECT_LT(RelativeError(a.grads.at(name), grad), tolerance) << name;
  }
  for (size_t l = 0; l < b.final_carries.size(); ++l) {
    EXPECT_LT(RelativeError(a.final_carries[l], b.final_carries[l]), tolerance)
        << "final carry of layer " << l;
  }
  ASSERT_EQ(a.initial_grads.size(), b.initial_grads.size());
  for (size_t l = 0; l < b.initial_grads.size(); ++l) {
    EXPECT_LT(RelativeError(a.initial_grads[l], b.initial_grads[l]), tolerance)
        << "gradient of the initial carry of layer " << l;
  }
}

TEST(StreamedPass, EveryChunkLengthGivesTheWholeSequencesGradients) {
  const Case c;
  const Outcome whole = RunCase(c, 0, 0);
  for (int64_t chunk = 1; chunk <= c.length + 2; ++chunk) {
    SCOPED_TRACE(chunk);
    ExpectClose(RunCase(c, chunk, 0), whole, 5e-6);
  }
}

TEST(StreamedPass, WithoutDocumentsOrCarries) {
  Case c;
  c.mean_document = 0;
  c.initial = false;
  const Outcome whole = RunCase(c, 0, 0);
  for (int64_t chunk : {1, 2, 3, 7, 16, 28}) {
    SCOPED_TRACE(chunk);
    ExpectClose(RunCase(c, chunk, 0), whole, 5e-6);
  }
}

TEST(StreamedPass, DocumentAtEveryToken) {
  Case c;
  c.mean_document = 1;
  const Outcome whole = RunCase(c, 0, 0);
  for (int64_t chunk : {1, 4, 9}) {
    SCOPED_TRACE(chunk);
    ExpectClose(RunCase(c, chunk, 0), whole, 5e-6);
  }
}

TEST(StreamedPass, Bf16ActivationsStayClose) {
  Case c;
  c.dtype = DType::kBF16;
  const Outcome whole = RunCase(c, 0, 0);
  for (int64_t chunk : {1, 5, 16}) {
    SCOPED_TRACE(chunk);
    ExpectClose(RunCase(c, chunk, 0), whole, 3e-2);
  }
}

TEST(StreamedPass, KeptTapesChangeNoBit) {
  const Case c;
  const Outcome recomputed = RunCase(c, 4, 0);
  const auto model = TinyModel();
  const int64_t chunk_bytes = model->TapeBytesPerToken() * c.batch * 4;
  ASSERT_EQ(KeptTapes(*model, c.batch, 4, 3 * chunk_bytes), 3);
  for (int64_t kept : {2, 3, 100}) {
    const Outcome out = RunCase(c, 4, kept * chunk_bytes);
    EXPECT_TRUE(out.chunk_nll == recomputed.chunk_nll);
    EXPECT_TRUE(out.grads == recomputed.grads);
    EXPECT_TRUE(out.initial_grads == recomputed.initial_grads);
  }
}

// After BeginGrads the first contribution to each gradient overwrites what
// stands there, here NaN, and CompleteGrads zeroes what none reached.
TEST(StreamedPass, GradientsNeedNoZeroing) {
  for (bool tied : {true, false}) {
    config::Model config = TinyModelConfig();
    config.set_tie_embeddings(tied);
    config.mutable_mamba()->set_use_bias(true);
    std::vector<float> grads[2];
    for (int lazy : {0, 1}) {
      LanguageModel model(config, DType::kF32);
      model.Allocate(1, /*gradients=*/true);
      ParameterStore& store = model.parameters();
      store.ZeroGrads();
      if (lazy == 1) {
        for (const auto& p : store.parameters()) {
          std::fill_n(p->grad().f32(), p->size(), NAN);
        }
        store.BeginGrads();
      }
      const TinyBatch batch(2, 20, 37, 6);
      LocalCarryExchange exchange(model.layers(), 3);
      ASSERT_TRUE(
          RunStreamedPass(model, batch.view, CutIntoChunks(20, 8), exchange, {})
              .ok());
      grads[lazy] = Values(store.grads());
    }
    EXPECT_TRUE(grads[0] == grads[1]);
  }
  auto model = TinyModel();
  ParameterStore& store = model->parameters();
  std::fill_n(store.grads().f32(), store.size(), 1.0f);
  store.BeginGrads();
  const int64_t last = static_cast<int64_t>(store.buckets().size()) - 1;
  store.CompleteGrads(last);
  const Range range = store.buckets()[last];
  for (const auto& p : store.parameters()) {
    const bool inside = p->offset() >= range.begin && p->offset() < range.end;
    EXPECT_EQ(p->grad().f32()[0], inside ? 0.0f : 1.0f) << p->name();
  }
  store.CompleteGrads();
  for (const auto& p : store.parameters()) {
    EXPECT_EQ(p->grad().f32()[p->size() - 1], 0.0f) << p->name();
  }
}

// Reading a prompt and then stepping through tokens needs one packed copy of
// each weight at a time.
TEST(StreamedPass, InferenceKeepsOnePackedCopy) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    config::Model config = TinyModelConfig();
    config.set_hidden_size(64);
    LanguageModel model(config, dtype);
    model.parameters().AllocateZeros();
    const std::vector<int32_t> tokens(8);
    std::vector<Carry> carries;
    SequenceBatch batch;
    batch.batch = 1;
    batch.length = batch.stride = 8;
    batch.tokens = tokens.data();
    const auto used = [] {
      return GetMemoryUse(MemoryPart::kParameters).bytes;
    };
    const int64_t before = used();
    ForwardTokens(model, ChunkData(batch, {0, 0, 8}), carries);
    const int64_t prompt = used() - before;
    EXPECT_GT(prompt, 0);
    ForwardTokens(model, ChunkData(batch, {0, 0, 1}), carries);
    EXPECT_GT(used(), before);
    EXPECT_LE(used() - before, prompt);
    ForwardTokens(model, ChunkData(batch, {0, 0, 8}), carries);
    EXPECT_EQ(used() - before, prompt);
  }
}

TEST(StreamedPass, TapeEstimateIsWhatTheTapeTakes) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    config::Model config = TinyModelConfig();
    config.set_hidden_size(64);
    config.clear_mamba();
    ASSERT_TRUE(ResolveModel(&config).ok());
    LanguageModel model(config, dtype);
    model.Allocate(1, true);
    const int64_t length = 512;
    const TinyBatch batch(1, length, 37, 0);
    // The first run packs weights; the second counts the tape alone.
    int64_t peak = 0;
    for (int run = 0; run < 2; ++run) {
      LocalCarryExchange exchange(model.layers(), 1);
      ResetMemoryPeaks();
      const int64_t before = GetMemoryUse(MemoryPart::kActivations).bytes;
      ASSERT_TRUE(RunStreamedPass(model, batch.view, CutIntoChunks(length, 0),
                                  exchange, {})
                      .ok());
      peak = GetMemoryUse(MemoryPart::kActivations).peak - before;
    }
    const double estimate =
        static_cast<double>(model.TapeBytesPerToken() * length);
    EXPECT_GT(peak, 0.9 * estimate);
    EXPECT_LT(peak, 1.35 * estimate);  // gradients of one layer come on top
  }
}

TEST(StreamedPass, PlanKnowsWhatTheLossTakes) {
  // In bf16 the gradient lies beside the logits of a small vocabulary.
  for (const auto& [precision, vocab] :
       {std::pair{config::Training::FP32, 5000},
        std::pair{config::Training::BF16, 5000},
        std::pair{config::Training::BF16, 4000}}) {
    config::Recipe recipe;
    *recipe.mutable_model() = TinyModelConfig();
    recipe.mutable_model()->set_vocab_size(vocab);
    recipe.mutable_training()->set_precision(precision);
    recipe.mutable_training()->set_batch_size(1);
    recipe.mutable_training()->set_sequence_length(200);
    LanguageModel model(recipe.model(), ActivationDType(recipe));
    model.Allocate(1, /*gradients=*/true);
    const TinyBatch batch(1, 200, vocab, 0);
    Tape tape(true);
    const ChunkData data(batch.view, {0, 0, 200});
    const LanguageModel::Hidden hidden =
        model.Embed(tape, data.tokens.as<int32_t>(), data.info);
    ResetMemoryPeaks();
    const int64_t before = GetMemoryUse(MemoryPart::kActivations).bytes;
    model.Loss(tape, hidden, data.targets.as<int32_t>(), 1);
    const int64_t used = GetMemoryUse(MemoryPart::kActivations).peak - before;
    const auto planned = static_cast<double>(PlanTrainingMemory(recipe).head);
    EXPECT_GT(used, 0.95 * planned);
    EXPECT_LT(used, 1.15 * planned);
  }
}

TEST(StreamedPass, MemoryDoesNotGrowWithLength) {
  auto peak = [](int64_t length) {
    auto model = TinyModel();
    const TinyBatch batch(1, length, 37, 50);
    const std::vector<ChunkSpan> spans = CutIntoChunks(length, 64);
    LocalCarryExchange exchange(model->layers(), spans.size());
    ResetMemoryPeaks();
    EXPECT_TRUE(RunStreamedPass(*model, batch.view, spans, exchange, {}).ok());
    return GetMemoryUse(MemoryPart::kActivations).peak;
  };
  const int64_t two_chunks = peak(128);
  EXPECT_LE(peak(128 * 64), two_chunks + two_chunks / 50);
}

TEST(StreamedPass, FiniteDifferences) {
  // A second opinion on the whole chain: loss(w + e) - loss(w - e).
  auto model = TinyModel();
  const TinyBatch batch(2, 11, 37, 5);
  const std::vector<ChunkSpan> spans = CutIntoChunks(11, 3);
  const auto loss = [&] {
    model->parameters().Changed();
    std::vector<Carry> carries;
    double sum = 0;
    const Tensor nll = ForwardLoss(*model, batch.view, {0, 0, 11}, carries);
    for (int64_t i = 0; i < nll.size(); ++i) sum += nll.f32()[i];
    return sum;
  };
  model->parameters().ZeroGrads();
  LocalCarryExchange exchange(model->layers(), spans.size());
  ASSERT_TRUE(RunStreamedPass(*model, batch.view, spans, exchange, {}).ok());
  for (const auto& p : model->parameters().parameters()) {
    // Along a random direction: one number for the whole parameter.
    double slope = 0, norm = 0;
    std::vector<float> saved = Values(p->value()), direction(p->size());
    for (int64_t i = 0; i < p->size(); ++i) {
      direction[i] = static_cast<float>(Normal(5, p->offset(), i));
      slope += static_cast<double>(direction[i]) * p->grad().f32()[i];
      norm += direction[i] * direction[i];
    }
    const double e = 2e-2 / std::sqrt(norm);
    double side[2];
    for (int s = 0; s < 2; ++s) {
      for (int64_t i = 0; i < p->size(); ++i) {
        p->value().f32()[i] =
            static_cast<float>(saved[i] + (s == 0 ? e : -e) * direction[i]);
      }
      side[s] = loss();
    }
    std::copy(saved.begin(), saved.end(), p->value().f32());
    const double measured = (side[0] - side[1]) / (2 * e);
    EXPECT_NEAR(measured, slope,
                2e-2 * std::abs(slope) + 2e-2 * std::sqrt(norm))
        << p->name();
  }
}

// Every span of every pass runs forward once and backward once, in the order
// that ranks rely on, within the tapes allowed; nothing is run twice that could
// have kept its tape.
void CheckOrder(int64_t spans, int64_t passes, int64_t tapes, bool hold,
                std::vector<std::pair<int64_t, int64_t>>* backward) {
  std::map<std::pair<int64_t, int64_t>, int> first, taped;
  int64_t held = 0, reruns = 0;
  for (const StreamStep& step : StreamOrder(spans, passes, tapes, hold)) {
    const std::pair<int64_t, int64_t> which(step.span, step.pass);
    switch (step.kind) {
      case StreamStep::kForward:
      case StreamStep::kRecord:
        EXPECT_EQ(first[which]++, 0);
        // Carries come from the span before.
        if (step.span > 0) {
          EXPECT_EQ((first[{step.span - 1, step.pass}]), 1);
        }
        break;
      case StreamStep::kRerun:
        EXPECT_EQ(first[which], 1);
        ++reruns;
        break;
      case StreamStep::kBackward:
        EXPECT_EQ(taped[which]--, 1);
        --held;
        backward->push_back(which);
        continue;
    }
    if (step.kind == StreamStep::kForward) continue;
    EXPECT_EQ(taped[which]++, 0);
    EXPECT_LE(++held, tapes);
  }
  EXPECT_EQ(held, 0);
  EXPECT_EQ(static_cast<int64_t>(backward->size()), spans * passes);
  const int64_t kept =
      std::min(spans, std::max<int64_t>(tapes / passes, hold ? 1 : 0));
  EXPECT_EQ(reruns, passes * (spans - kept));
}

TEST(StreamOrder, IsCompleteAndWithinItsTapes) {
  for (int64_t spans = 0; spans <= 5; ++spans) {
    for (int64_t passes = 1; passes <= 4; ++passes) {
      std::vector<std::pair<int64_t, int64_t>> want;
      CheckOrder(spans, passes, 1, true, &want);
      for (int64_t tapes = 1; tapes <= 13; ++tapes) {
        for (const bool hold : {false, true}) {
          SCOPED_TRACE(testing::Message()
                       << spans << " spans, " << passes << " passes, " << tapes
                       << " tapes, hold " << hold);
          std::vector<std::pair<int64_t, int64_t>> backward;
          CheckOrder(spans, passes, tapes, hold, &backward);
          EXPECT_EQ(backward, want);
        }
      }
    }
  }
}

}  // namespace
}  // namespace carry
