// Evaluation of endless text in the memory of one chunk.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/data/corpus.h"
#include "framework/data/tokenizer.h"
#include "framework/nn/language_model.h"

namespace carry {

struct EvalResult {
  // Tokens at distance [begin, 2 begin) from their document's start; the
  // first bucket is [1, 2).
  struct Bucket {
    int64_t begin = 0;
    int64_t tokens = 0;
    double nll = 0;  // sum, in nats
  };
  int64_t tokens = 0;  // predicted: all but each document's first
  double nll = 0;      // sum, in nats
  std::vector<Bucket> by_position;

  double MeanNll() const { return tokens > 0 ? nll / tokens : 0; }
};

// Runs documents one after another through the model, the carry kept within a
// document and reset between two.
class StreamEvaluator {
 public:
  // `chunk_length` tokens run at once.
  StreamEvaluator(LanguageModel& model, int64_t chunk_length);

  // The next tokens of the stream; `starts` says that the first of them opens
  // a document. Tokens are kept until a chunk is full.
  void Add(const int32_t* tokens, int64_t count, bool starts);
  // Runs what is left; the result is complete.
  const EvalResult& Finish();

 private:
  void RunChunk();
  void Count(int64_t position, double nll);

  LanguageModel& model_;
  int64_t chunk_length_;
  std::vector<int32_t> tokens_;
  std::vector<uint8_t> starts_;
  std::vector<Carry> carries_;
  int64_t position_ = 0;  // of the next chunk's first token in its document
  EvalResult result_;
};

struct CorpusEval {
  EvalResult result;
  int64_t documents = 0;
  // Bytes of text that the predicted tokens stand for.
  int64_t bytes = 0;
  // Total information over total bytes; NaN if there is no byte.
  double BitsPerByte() const;
};

// Evaluates documents `first`, first + stride, ... in the corpus's order until
// `max_tokens` tokens were read (0: all). `keep_going` is asked after every
// chunk with the tokens read so far; false ends with what there is.
absl::StatusOr<CorpusEval> EvaluateCorpus(
    LanguageModel& model, const Corpus& corpus, const Tokenizer& tokenizer,
    int64_t max_tokens, int64_t chunk_length,
    const std::function<bool(int64_t tokens)>& keep_going, int64_t first = 0,
    int64_t stride = 1);

}  // namespace carry
