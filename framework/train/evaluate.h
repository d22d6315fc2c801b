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
  // `chunk_length` tokens run at once. `reset_every` > 0: carries are reset
  // after so many tokens of a document too, which are all the context that the
  // next ones then lack; what is predicted stays the same.
  StreamEvaluator(LanguageModel& model, int64_t chunk_length,
                  int64_t reset_every = 0);

  // The next tokens of the stream; `starts` says that the first of them opens
  // a document. Tokens are kept until a chunk is full.
  absl::Status Add(const int32_t* tokens, int64_t count, bool starts);
  // Runs what is left; the result is complete.
  absl::StatusOr<EvalResult> Finish();

 private:
  absl::Status RunChunk();
  void Count(int64_t position, double nll);

  LanguageModel& model_;
  int64_t chunk_length_;
  int64_t reset_every_;
  std::vector<int32_t> tokens_;
  std::vector<uint8_t> starts_;
  std::vector<Carry> carries_;
  int64_t position_ = 0;  // of the next chunk's first token in its document
  EvalResult result_;
};

struct CorpusEval {
  EvalResult result;
  int64_t documents = 0;
  std::vector<int64_t> evaluated;  // their indices, ascending; of this rank
  // Bytes of text that the predicted tokens stand for.
  int64_t bytes = 0;
  // Total information over total bytes; NaN if there is no byte.
  double BitsPerByte() const;
};

// Whole documents of at most `max_tokens` tokens together (0: all), drawn in an
// order that depends on their number alone; one that does not fit into what is
// left is passed over, so that a few giants do not stand for all. Ascending. If
// none fits, the shortest.
std::vector<int64_t> ChooseDocuments(const Corpus& corpus, int64_t max_tokens);

struct CorpusEvalOptions {
  int64_t max_tokens = 0;    // for ChooseDocuments
  int64_t chunk_length = 0;  // tokens that run at once
  int64_t reset_every = 0;   // as StreamEvaluator has it
  // Of the chosen documents, those at places first, first + stride, ...
  int64_t first = 0;
  int64_t stride = 1;
  // Asked after every chunk with the tokens read so far; false ends with what
  // there is. Empty: go on.
  std::function<bool(int64_t tokens)> keep_going;
};

absl::StatusOr<CorpusEval> EvaluateCorpus(LanguageModel& model,
                                          const Corpus& corpus,
                                          const Tokenizer& tokenizer,
                                          const CorpusEvalOptions& options);

}  // namespace carry
