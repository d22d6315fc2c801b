#include "framework/train/evaluate.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "framework/train/streamed_pass.h"
#include "kernels/check.h"

namespace carry {

StreamEvaluator::StreamEvaluator(LanguageModel& model, int64_t chunk_length)
    : model_(model), chunk_length_(chunk_length) {
  CARRY_CHECK(chunk_length >= 1);
}

void StreamEvaluator::Add(const int32_t* tokens, int64_t count, bool starts) {
  for (int64_t i = 0; i < count; ++i) {
    tokens_.push_back(tokens[i]);
    starts_.push_back(starts && i == 0);
    // One token more than a chunk: the last token's target.
    if (static_cast<int64_t>(tokens_.size()) > chunk_length_) RunChunk();
  }
}

void StreamEvaluator::RunChunk() {
  const int64_t held = static_cast<int64_t>(tokens_.size());
  const int64_t time = std::min(held, chunk_length_);
  std::vector<int32_t> targets(time, -1);
  for (int64_t t = 0; t < time && t + 1 < held; ++t) {
    if (!starts_[t + 1]) targets[t] = tokens_[t + 1];
  }
  SequenceBatch batch;
  batch.batch = 1;
  batch.length = batch.stride = time;
  batch.tokens = tokens_.data();
  batch.targets = targets.data();
  batch.document_start = starts_.data();
  const Tensor nll = ForwardLoss(model_, batch, {0, 0, time}, carries_);
  for (int64_t t = 0; t < time; ++t) {
    if (starts_[t]) position_ = 0;
    ++position_;
    if (targets[t] >= 0) Count(position_, nll.f32()[t]);
  }
  tokens_.erase(tokens_.begin(), tokens_.begin() + time);
  starts_.erase(starts_.begin(), starts_.begin() + time);
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

const EvalResult& StreamEvaluator::Finish() {
  if (!tokens_.empty()) RunChunk();
  return result_;
}

double CorpusEval::BitsPerByte() const {
  return result.nll / std::log(2.0) / static_cast<double>(bytes);
}

absl::StatusOr<CorpusEval> EvaluateCorpus(
    LanguageModel& model, const Corpus& corpus, const Tokenizer& tokenizer,
    int64_t max_tokens, int64_t chunk_length,
    const std::function<bool(int64_t tokens)>& keep_going, int64_t first,
    int64_t stride) {
  CorpusEval eval;
  StreamEvaluator evaluator(model, chunk_length);
  std::vector<int32_t> tokens(chunk_length);
  int64_t read = 0;
  bool going = true;
  for (int64_t d = first; d < corpus.num_documents() && going; d += stride) {
    const int64_t length = corpus.DocumentLength(d);
    for (int64_t begin = 0; begin < length && going; begin += chunk_length) {
      int64_t count = std::min(chunk_length, length - begin);
      if (max_tokens > 0) count = std::min(count, max_tokens - read);
      corpus.ReadTokens(d, begin, count, tokens.data());
      evaluator.Add(tokens.data(), count, begin == 0);
      // A document's first token is not predicted.
      const int64_t skip = begin == 0 ? 1 : 0;
      absl::StatusOr<std::string> text = tokenizer.Decode(
          absl::MakeConstSpan(tokens.data() + skip, count - skip));
      if (!text.ok()) return text.status();
      eval.bytes += static_cast<int64_t>(text->size());
      read += count;
      going = (max_tokens == 0 || read < max_tokens) &&
              (!keep_going || keep_going(read));
    }
    ++eval.documents;
  }
  eval.result = evaluator.Finish();
  return eval;
}

}  // namespace carry
