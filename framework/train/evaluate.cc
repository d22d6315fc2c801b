#include "framework/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "framework/random.h"
#include "framework/train/streamed_pass.h"
#include "kernels/check.h"

namespace carry {

StreamEvaluator::StreamEvaluator(LanguageModel& model, int64_t chunk_length,
                                 int64_t reset_every)
    : model_(model), chunk_length_(chunk_length), reset_every_(reset_every) {
  CARRY_CHECK(chunk_length >= 1 && reset_every >= 0);
}

absl::Status StreamEvaluator::Add(const int32_t* tokens, int64_t count,
                                  bool starts) {
  for (int64_t i = 0; i < count; ++i) {
    tokens_.push_back(tokens[i]);
    starts_.push_back(starts && i == 0);
    // One token more than a chunk: the last token's target.
    if (static_cast<int64_t>(tokens_.size()) <= chunk_length_) continue;
    absl::Status status = RunChunk();
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status StreamEvaluator::RunChunk() {
  const int64_t held = static_cast<int64_t>(tokens_.size());
  const int64_t time = std::min(held, chunk_length_);
  std::vector<int32_t> targets(time, -1);
  std::vector<int64_t> position(time);  // in the document, from 0
  std::vector<uint8_t> resets(time);
  for (int64_t t = 0; t < time; ++t) {
    if (starts_[t]) position_ = 0;
    position[t] = position_++;
    resets[t] =
        starts_[t] || (reset_every_ > 0 && position[t] % reset_every_ == 0);
    if (t + 1 < held && !starts_[t + 1]) targets[t] = tokens_[t + 1];
  }
  SequenceBatch batch;
  batch.batch = 1;
  batch.length = batch.stride = time;
  batch.tokens = tokens_.data();
  batch.targets = targets.data();
  batch.document_start = resets.data();
  const absl::StatusOr<Tensor> nll =
      ForwardLoss(model_, batch, {0, 0, time}, carries_).ToHost();
  if (!nll.ok()) return nll.status();
  for (int64_t t = 0; t < time; ++t) {
    if (targets[t] >= 0) Count(position[t] + 1, nll->f32()[t]);
  }
  tokens_.erase(tokens_.begin(), tokens_.begin() + time);
  starts_.erase(starts_.begin(), starts_.begin() + time);
  return absl::OkStatus();
}

void StreamEvaluator::Count(int64_t position, double nll) {
  result_.nll += nll;
  ++result_.tokens;
  size_t bucket = 0;
  while ((int64_t{2} << bucket) <= position) ++bucket;
  while (result_.by_position.size() <= bucket) {
    EvalResult::Bucket next;
    next.begin = int64_t{1} << result_.by_position.size();
    result_.by_position.push_back(next);
  }
  result_.by_position[bucket].nll += nll;
  ++result_.by_position[bucket].tokens;
}

absl::StatusOr<EvalResult> StreamEvaluator::Finish() {
  if (!tokens_.empty()) {
    absl::Status status = RunChunk();
    if (!status.ok()) return status;
  }
  return result_;
}

double CorpusEval::BitsPerByte() const {
  return result.nll / std::log(2.0) / static_cast<double>(bytes);
}

std::vector<int64_t> ChooseDocuments(const Corpus& corpus, int64_t max_tokens) {
  const int64_t n = corpus.num_documents();
  std::vector<int64_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  if (max_tokens == 0) return order;
  const auto key = [](int64_t document) {
    return RandomBits(0, StreamOf("carry.evaluate"),
                      static_cast<uint64_t>(document));
  };
  std::sort(order.begin(), order.end(),
            [&key](int64_t a, int64_t b) { return key(a) < key(b); });
  std::vector<int64_t> chosen;
  int64_t left = max_tokens;
  for (int64_t d : order) {
    if (corpus.DocumentLength(d) > left) continue;
    chosen.push_back(d);
    left -= corpus.DocumentLength(d);
  }
  if (chosen.empty()) {
    chosen.push_back(*std::min_element(
        order.begin(), order.end(), [&corpus](int64_t a, int64_t b) {
          return corpus.DocumentLength(a) < corpus.DocumentLength(b);
        }));
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

absl::StatusOr<CorpusEval> EvaluateCorpus(LanguageModel& model,
                                          const Corpus& corpus,
                                          const Tokenizer& tokenizer,
                                          const CorpusEvalOptions& options) {
  CorpusEval eval;
  const int64_t chunk_length = options.chunk_length;
  StreamEvaluator evaluator(model, chunk_length, options.reset_every);
  std::vector<int32_t> tokens(chunk_length);
  const std::vector<int64_t> documents =
      ChooseDocuments(corpus, options.max_tokens);
  const int64_t chosen = static_cast<int64_t>(documents.size());
  int64_t read = 0;
  bool going = true;
  for (int64_t i = options.first; i < chosen && going; i += options.stride) {
    const int64_t d = documents[i];
    const int64_t length = corpus.DocumentLength(d);
    for (int64_t begin = 0; begin < length && going; begin += chunk_length) {
      const int64_t count = std::min(chunk_length, length - begin);
      corpus.ReadTokens(d, begin, count, tokens.data());
      absl::Status status = evaluator.Add(tokens.data(), count, begin == 0);
      if (!status.ok()) return status;
      // A document's first token is not predicted.
      const int64_t skip = begin == 0 ? 1 : 0;
      absl::StatusOr<std::string> text = tokenizer.Decode(
          absl::MakeConstSpan(tokens.data() + skip, count - skip));
      if (!text.ok()) return text.status();
      eval.bytes += static_cast<int64_t>(text->size());
      read += count;
      going = !options.keep_going || options.keep_going(read);
    }
    eval.evaluated.push_back(d);
  }
  eval.documents = static_cast<int64_t>(eval.evaluated.size());
  absl::StatusOr<EvalResult> result = evaluator.Finish();
  if (!result.ok()) return result.status();
  eval.result = *std::move(result);
  return eval;
}

}  // namespace carry
