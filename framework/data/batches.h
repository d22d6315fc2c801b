// Sequences for training, with random access by step.
//
// The documents of a corpus, in an order that depends on (seed, epoch) alone,
// form one stream of N tokens an epoch. With L = sequence_length, B =
// batch_size and k = step:
//
//   PACKED   Epochs follow each other, cut into samples: sample s covers stream
//            positions [s L, (s + 1) L). Row b of step k is sample k B + b,
//            shuffled among the N / L samples of about an epoch: otherwise a
//            document of many samples would fill many steps in a row. The part
//            of a document that opens a sample counts as a document of its own.
//   CARRIED  An epoch's stream is cut into B spans [b N / B, (b + 1) N / B)
//            (rounded down). Row b reads span b of epoch after epoch; step k
//            covers [k L, (k + 1) L) of that row. A carry from step k - 1 goes
//            on wherever no document starts.
//
// Each token of an epoch is an input exactly once. All is computed from the
// step, so it depends neither on what was read before nor on which rank asks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "framework/data/corpus.h"

namespace carry {

enum class Packing : uint8_t { kPacked, kCarried };

struct BatchOptions {
  int64_t sequence_length = 0;  // L, in tokens.
  int64_t batch_size = 0;       // B, in sequences.
  Packing packing = Packing::kPacked;
  bool shuffle = true;  // False: documents in the corpus's order.
  uint64_t seed = 0;
};

// Where to write a part of a batch: `rows` rows of `stride` elements. Each
// pointer may be null where that is not wanted.
struct BatchSlice {
  // Ids, int32 [rows, tokens].
  int32_t* tokens = nullptr;
  // The next token of the same document, also beyond the end of the sequence;
  // -1 where there is none. int32 [rows, tokens].
  int32_t* targets = nullptr;
  // 1 where a document starts, or a PACKED sample, or a CARRIED row's span;
  // else 0. uint8 [rows, tokens].
  uint8_t* document_start = nullptr;
  int64_t stride = 0;
};

struct Batch {
  int64_t rows = 0;
  int64_t length = 0;
  std::vector<int32_t> tokens;          // [rows, length]
  std::vector<int32_t> targets;         // [rows, length]
  std::vector<uint8_t> document_start;  // [rows, length]
  int64_t num_targets = 0;              // Targets other than -1.
};

// What a checkpoint keeps: the steps that were taken, and all that their
// meaning depends on.
struct DataPosition {
  int64_t step = 0;
  std::string corpus_digest;
  BatchOptions options;

  // One line of JSON; see README.md.
  std::string ToJson() const;
  // `where` starts error messages.
  static absl::StatusOr<DataPosition> FromJson(absl::string_view json,
                                               const std::string& where);
};

// Methods may be called from any thread.
class BatchStream {
 public:
  // `corpus` must outlive the stream. kInvalidArgument: sizes below 1 or so
  // large that positions overflow, a corpus with fewer tokens than CARRIED
  // rows.
  static absl::StatusOr<std::unique_ptr<BatchStream>> Create(
      const Corpus& corpus, const BatchOptions& options);
  ~BatchStream();

  const BatchOptions& options() const { return options_; }
  // Steps in which an epoch is read once, on average.
  double steps_per_epoch() const;
  // The first step that can no longer be addressed; far beyond any run.
  int64_t max_steps() const { return max_steps_; }

  // The whole batch of a step. REQUIRES for all: 0 <= step < max_steps().
  Batch Get(int64_t step) const;

  // Writes columns [token_begin, token_begin + tokens) of rows [row_begin,
  // row_begin + rows) and returns the number of targets among them: the part
  // of one rank or of one chunk. REQUIRES: these lie in the batch.
  int64_t Fill(int64_t step, int64_t row_begin, int64_t rows,
               int64_t token_begin, int64_t tokens,
               const BatchSlice& out) const;

  // Targets in the whole batch, from the documents' lengths alone.
  int64_t NumTargets(int64_t step) const;

  // The position before `step`.
  DataPosition Position(int64_t step) const;
  // kFailedPrecondition where `position` is of another corpus or of other
  // options, naming them: its step would mean other tokens here.
  absl::Status CheckPosition(const DataPosition& position) const;

 private:
  struct Epoch;
  class EpochCache;
  // A stretch of one document in a row.
  struct Run {
    int64_t column;    // Where it begins in the row.
    int64_t document;  // In the corpus.
    int64_t offset;    // In the document.
    int64_t count;     // In tokens.
    bool starts;       // Its first token has document_start.
    bool ends;         // Its last token is the document's last.
  };

  BatchStream(const Corpus& corpus, const BatchOptions& options);
  // PACKED: the sample that comes at `index`.
  int64_t SampleAt(int64_t index) const;
  // Calls visit(Run) for the runs of columns [begin, begin + count) of a row.
  template <typename Visit>
  void ForEachRun(int64_t step, int64_t row, int64_t begin, int64_t count,
                  const Visit& visit) const;

  const Corpus& corpus_;
  const BatchOptions options_;
  int64_t max_steps_ = 0;
  std::unique_ptr<EpochCache> cache_;
};

}  // namespace carry
