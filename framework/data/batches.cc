#include "framework/data/batches.h"

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "absl/strings/str_cat.h"
#include "framework/io/json.h"
#include "framework/random.h"
#include "kernels/check.h"

namespace carry {
namespace {

constexpr char kPackedName[] = "PACKED";
constexpr char kCarriedName[] = "CARRIED";

const char* NameOf(Packing packing) {
  return packing == Packing::kPacked ? kPackedName : kCarriedName;
}

}  // namespace

// The place of `index` in a permutation of [0, size) that depends on `key`
// alone: a Feistel network on the next power of four, walked until it comes
// back inside (Black and Rogaway, "Ciphers with arbitrary finite domains").
int64_t Permute(int64_t index, int64_t size, uint64_t key) {
  int half = 1;
  while ((int64_t{1} << (2 * half)) < size) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  const uint64_t stream = StreamOf("data.samples");
  auto at = static_cast<uint64_t>(index);
  do {
    uint64_t left = at >> half, right = at & mask;
    for (uint64_t round = 0; round < 6; ++round) {
      const uint64_t mixed =
          RandomBits(key, stream, (round << 32) | right) & mask;
      const uint64_t next = left ^ mixed;
      left = right;
      right = next;
    }
    at = (left << half) | right;
  } while (at >= static_cast<uint64_t>(size));
  return static_cast<int64_t>(at);
}

// The documents of one epoch in their order, with the stream position of each.
struct BatchStream::Epoch {
  Epoch(const Corpus& corpus, const BatchOptions& options, int64_t number)
      : order(corpus.num_documents()), begins(corpus.num_documents() + 1) {
    const int64_t n = corpus.num_documents();
    for (int64_t i = 0; i < n; ++i) order[i] = i;
    if (options.shuffle) {
      // Fisher and Yates, with a key for each epoch.
      const uint64_t stream = StreamOf("data.shuffle");
      const uint64_t key =
          RandomBits(options.seed, stream, static_cast<uint64_t>(number));
      for (int64_t i = n - 1; i > 0; --i) {
        const auto j = static_cast<int64_t>(
            UniformBelow(static_cast<uint64_t>(i) + 1, key, stream,
                         static_cast<uint64_t>(i)));
        std::swap(order[i], order[j]);
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      begins[i + 1] = begins[i] + corpus.DocumentLength(order[i]);
    }
  }

  std::vector<int64_t> order;   // Document at each place.
  std::vector<int64_t> begins;  // Stream position of each place, and the end.
};

// Keeps the epochs that were used last. A step lies in one or two of them;
// rows of CARRIED pass from one to the next a step apart.
class BatchStream::EpochCache {
 public:
  EpochCache(const Corpus& corpus, const BatchOptions& options)
      : corpus_(corpus), options_(options) {}

  std::shared_ptr<const Epoch> Get(int64_t number) {
    // Without a shuffle all epochs are alike.
    if (!options_.shuffle) number = 0;
    const std::lock_guard<std::mutex> lock(mutex_);
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].epoch != nullptr && slots_[i].number == number) {
        std::rotate(slots_.begin(), slots_.begin() + i, slots_.begin() + i + 1);
        return slots_[0].epoch;
      }
    }
    std::rotate(slots_.begin(), slots_.end() - 1, slots_.end());
    slots_[0] = {number,
                 std::make_shared<const Epoch>(corpus_, options_, number)};
    return slots_[0].epoch;
  }

 private:
  struct Slot {
    int64_t number = -1;
    std::shared_ptr<const Epoch> epoch;
  };

  const Corpus& corpus_;
  const BatchOptions options_;
  std::mutex mutex_;
  std::array<Slot, 2> slots_;  // Guarded by mutex_; the newest first.
};

BatchStream::BatchStream(const Corpus& corpus, const BatchOptions& options)
    : corpus_(corpus),
      options_(options),
      cache_(std::make_unique<EpochCache>(corpus, options)) {}

BatchStream::~BatchStream() = default;

absl::StatusOr<std::unique_ptr<BatchStream>> BatchStream::Create(
    const Corpus& corpus, const BatchOptions& options) {
  if (options.sequence_length < 1 || options.batch_size < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("training.sequence_length and training.batch_size must "
                     "be at least 1, not ",
                     options.sequence_length, " and ", options.batch_size));
  }
  int64_t step_tokens = 0;
  if (__builtin_mul_overflow(options.sequence_length, options.batch_size,
                             &step_tokens) ||
      step_tokens > int64_t{1} << 48) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a step of ", options.batch_size, " sequences of ",
        options.sequence_length,
        " tokens is more than 2^48 tokens; make training.batch_size or "
        "training.sequence_length smaller"));
  }
  if (options.packing == Packing::kCarried &&
      corpus.num_tokens() < options.batch_size) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the data have ", corpus.num_tokens(),
        " tokens, which cannot be cut into training.batch_size = ",
        options.batch_size, " spans; use fewer rows or more data"));
  }
  std::unique_ptr<BatchStream> stream(new BatchStream(corpus, options));
  // The shuffle moves a sample by less than an epoch, or not at all.
  stream->max_steps_ = (INT64_MAX - corpus.num_tokens()) / step_tokens;
  return stream;
}

double BatchStream::steps_per_epoch() const {
  return static_cast<double>(corpus_.num_tokens()) /
         (static_cast<double>(options_.sequence_length) *
          static_cast<double>(options_.batch_size));
}

int64_t BatchStream::SampleAt(int64_t index) const {
  if (!options_.shuffle) return index;
  const int64_t block =
      std::max<int64_t>(1, corpus_.num_tokens() / options_.sequence_length);
  const int64_t number = index / block;
  const uint64_t key = RandomBits(options_.seed, StreamOf("data.samples"),
                                  static_cast<uint64_t>(number));
  return number * block + Permute(index % block, block, key);
}

template <typename Visit>
void BatchStream::ForEachRun(int64_t step, int64_t row, int64_t begin,
                             int64_t count, const Visit& visit) const {
  const int64_t n = corpus_.num_tokens();
  const bool packed = options_.packing == Packing::kPacked;
  // A row reads [span_begin, span_begin + span) of each epoch's stream; `at`
  // counts what it has read.
  int64_t span_begin = 0;
  int64_t span = n;
  int64_t sample = step;
  if (packed) {
    sample = SampleAt(step * options_.batch_size + row);
  } else {
    __extension__ using int128 = __int128;
    const int64_t b = options_.batch_size;
    span_begin = static_cast<int64_t>(int128{n} * row / b);
    span = static_cast<int64_t>(int128{n} * (row + 1) / b) - span_begin;
  }
  int64_t at = sample * options_.sequence_length + begin;
  int64_t column = begin;
  const int64_t end = begin + count;
  while (column < end) {
    const std::shared_ptr<const Epoch> epoch = cache_->Get(at / span);
    const int64_t in_span = at % span;
    int64_t position = span_begin + in_span;
    const int64_t stop = std::min(position + (end - column), span_begin + span);
    int64_t place =
        std::upper_bound(epoch->begins.begin(), epoch->begins.end(), position) -
        epoch->begins.begin() - 1;
    at += stop - position;
    for (; position < stop; ++place) {
      const int64_t from = epoch->begins[place];
      const int64_t to = epoch->begins[place + 1];
      Run run;
      run.column = column;
      run.document = epoch->order[place];
      run.offset = position - from;
      run.count = std::min(to, stop) - position;
      run.starts =
          position == from || (packed ? column == 0 : position == span_begin);
      run.ends = position + run.count == to;
      visit(run);
      column += run.count;
      position += run.count;
    }
  }
}

int64_t BatchStream::Fill(int64_t step, int64_t row_begin, int64_t rows,
                          int64_t token_begin, int64_t tokens,
                          const BatchSlice& out) const {
  CARRY_CHECK(step >= 0 && step < max_steps_);
  CARRY_CHECK(row_begin >= 0 && rows >= 0 &&
              row_begin + rows <= options_.batch_size);
  CARRY_CHECK(token_begin >= 0 && tokens >= 0 &&
              token_begin + tokens <= options_.sequence_length);
  int64_t num_targets = 0;
  for (int64_t r = 0; r < rows; ++r) {
    ForEachRun(step, row_begin + r, token_begin, tokens, [&](const Run& run) {
      const int64_t at = r * out.stride + run.column - token_begin;
      const int64_t targets = run.count - (run.ends ? 1 : 0);
      num_targets += targets;
      if (out.tokens != nullptr) {
        corpus_.ReadTokens(run.document, run.offset, run.count,
                           out.tokens + at);
      }
      if (out.targets != nullptr) {
        corpus_.ReadTokens(run.document, run.offset + 1, targets,
                           out.targets + at);
        if (run.ends) out.targets[at + targets] = -1;
      }
      if (out.document_start != nullptr) {
        std::fill_n(out.document_start + at, run.count, uint8_t{0});
        out.document_start[at] = run.starts ? 1 : 0;
      }
    });
  }
  return num_targets;
}

Batch BatchStream::Get(int64_t step) const {
  Batch batch;
  batch.rows = options_.batch_size;
  batch.length = options_.sequence_length;
  const int64_t size = batch.rows * batch.length;
  batch.tokens.resize(size);
  batch.targets.resize(size);
  batch.document_start.resize(size);
  batch.num_targets = Fill(step, 0, batch.rows, 0, batch.length,
                           {batch.tokens.data(), batch.targets.data(),
                            batch.document_start.data(), batch.length});
  return batch;
}

int64_t BatchStream::NumTargets(int64_t step) const {
  return Fill(step, 0, options_.batch_size, 0, options_.sequence_length, {});
}

DataPosition BatchStream::Position(int64_t step) const {
  return {step, corpus_.digest(), options_};
}

absl::Status BatchStream::CheckPosition(const DataPosition& position) const {
  std::string difference;
  const auto compare = [&](absl::string_view name, const auto& saved,
                           const auto& now) {
    if (saved == now) return;
    absl::StrAppend(&difference, difference.empty() ? "" : ", ", name, " ",
                    saved, " (now ", now, ")");
  };
  const BatchOptions& saved = position.options;
  compare("data digest", position.corpus_digest, corpus_.digest());
  compare("training.sequence_length", saved.sequence_length,
          options_.sequence_length);
  compare("training.batch_size", saved.batch_size, options_.batch_size);
  compare("data.packing", std::string(NameOf(saved.packing)),
          std::string(NameOf(options_.packing)));
  compare("data.shuffle", int{saved.shuffle}, int{options_.shuffle});
  compare("training.seed", saved.seed, options_.seed);
  if (difference.empty() && position.step < max_steps_) {
    return absl::OkStatus();
  }
  if (difference.empty()) {
    difference =
        absl::StrCat("step ", position.step, " (at most ", max_steps_ - 1, ")");
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "the checkpoint's position in the data was made with ", difference,
      "; its steps would mean other tokens here: restore the same data and "
      "recipe, or start a new run from the checkpoint's weights"));
}

std::string DataPosition::ToJson() const {
  const Json json = {{"step", step},
                     {"corpus_digest", corpus_digest},
                     {"sequence_length", options.sequence_length},
                     {"batch_size", options.batch_size},
                     {"packing", NameOf(options.packing)},
                     {"shuffle", options.shuffle},
                     {"seed", options.seed}};
  return json.dump(-1, ' ', true, Json::error_handler_t::replace);
}

absl::StatusOr<DataPosition> DataPosition::FromJson(absl::string_view text,
                                                    const std::string& where) {
  const absl::StatusOr<Json> json = ParseJson(text, where);
  if (!json.ok()) return json.status();
  const auto error = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": ", what,
                     "; the data position is damaged: resume from "
                     "another checkpoint"));
  };
  if (!json->is_object()) return error("it is not a JSON object");
  for (const char* key : {"step", "corpus_digest", "sequence_length",
                          "batch_size", "packing", "shuffle", "seed"}) {
    if (!json->contains(key))
      return error(absl::StrCat("has no \"", key, "\""));
  }
  DataPosition position;
  for (const auto& [key, value] :
       {std::pair<const char*, int64_t*>{"step", &position.step},
        {"sequence_length", &position.options.sequence_length},
        {"batch_size", &position.options.batch_size}}) {
    const absl::StatusOr<int64_t> size =
        JsonSize((*json)[key], absl::StrCat(where, ": \"", key, "\""));
    if (!size.ok()) return size.status();
    *value = *size;
  }
  const Json& digest = (*json)["corpus_digest"];
  const Json& packing = (*json)["packing"];
  const Json& shuffle = (*json)["shuffle"];
  const Json& seed = (*json)["seed"];
  if (!digest.is_string()) return error("\"corpus_digest\" is not a string");
  if (packing != kPackedName && packing != kCarriedName) {
    return error("\"packing\" is neither PACKED nor CARRIED");
  }
  if (!shuffle.is_boolean()) return error("\"shuffle\" is not true or false");
  if (!seed.is_number_unsigned()) return error("\"seed\" is not a number");
  position.corpus_digest = digest.get<std::string>();
  position.options.packing =
      packing == kPackedName ? Packing::kPacked : Packing::kCarried;
  position.options.shuffle = shuffle.get<bool>();
  position.options.seed = seed.get<uint64_t>();
  return position;
}

}  // namespace carry
