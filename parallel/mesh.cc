#include "parallel/mesh.h"

#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/span.h"
#include "parallel/prefix.h"
#include "parallel/wavefront.h"

namespace carry {
namespace {

// A cache line of floats: slices of a bucket start at multiples.
constexpr int64_t kAlign = 16;

std::vector<Part> Slices(const Range& bucket, int ranks) {
  std::vector<Part> parts;
  int64_t begin = bucket.begin;
  for (int r = 0; r < ranks; ++r) {
    int64_t end = bucket.begin + bucket.size() * (r + 1) / ranks;
    end = r + 1 == ranks ? bucket.end : (end + kAlign - 1) / kAlign * kAlign;
    end = std::max(begin, std::min(end, bucket.end));
    parts.push_back({begin, end});
    begin = end;
  }
  return parts;
}

// The tensor itself or a copy that messages of `comm` can be in.
absl::StatusOr<Tensor> InMemoryOf(const Communicator& comm, const Tensor& t) {
  if (comm.memory() == t.device()) return t;
  return t.ToHost();
}

// Elements of such a copy to where they came from.
void CopyBack(const Tensor& host, const Part& part, const Tensor& to) {
  if (host.device() == to.device()) return;  // It is `to`.
  to.backend().FromHost(to.f32() + part.begin, host.f32() + part.begin,
                        part.size() * sizeof(float));
}

CommCounters SumCounters(const Communicator& a, const Communicator* b) {
  CommCounters sum = a.counters();
  if (b != nullptr) {
    sum.messages += b->counters().messages;
    sum.bytes += b->counters().bytes;
  }
  return sum;
}

// "1 x 6, 2 x 3, 3 x 2, 6 x 1"
std::string Factorisations(int n) {
  std::string text;
  for (int d = 1; d <= n; ++d) {
    if (n % d != 0) continue;
    absl::StrAppend(&text, text.empty() ? "" : ", ", d, " x ", n / d);
  }
  return text;
}

}  // namespace

absl::StatusOr<std::vector<std::string>> GatherStrings(
    Communicator& world, const char* what, const std::string& bytes) {
  const CommLabel label = {what, -1, -1, ""};
  const int64_t length = static_cast<int64_t>(bytes.size());
  std::vector<int64_t> lengths(world.size());
  absl::Status status =
      world.AllGather(&length, sizeof(length), lengths.data(), label);
  if (!status.ok()) return status;
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  std::string padded = bytes;
  padded.resize(longest);
  std::string all(longest * world.size(), '\0');
  status = world.AllGather(padded.data(), longest, all.data(), label);
  if (!status.ok()) return status;
  std::vector<std::string> out;
  for (int r = 0; r < world.size(); ++r) {
    out.push_back(all.substr(r * longest, lengths[r]));
  }
  return out;
}

absl::Status CheckMeshSize(const config::Parallel& config, int ranks) {
  const int64_t data = config.data(), sequence = config.sequence();
  if (data * sequence == ranks) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("parallel.data x parallel.sequence is ", data, " x ",
                   sequence, " = ", data * sequence, ", but ", ranks,
                   ranks == 1 ? " rank was" : " ranks were", " started; start ",
                   data * sequence, " with mpirun -n ", data * sequence,
                   ", or set parallel.data x parallel.sequence to one of ",
                   Factorisations(ranks)));
}

absl::StatusOr<std::unique_ptr<Mesh>> Mesh::Create(
    std::unique_ptr<Communicator> world, const config::Parallel& config,
    int local_size, std::unique_ptr<Communicator> device_world) {
  CARRY_CHECK(config.schedule() != config::Parallel::AUTO);
  absl::Status status = CheckMeshSize(config, world->size());
  if (!status.ok()) return status;
  const auto s = static_cast<int>(config.sequence());
  absl::StatusOr<std::unique_ptr<Communicator>> group =
      world->Split(world->rank() / s, world->rank() % s);
  if (!group.ok()) return group.status();
  std::unique_ptr<Mesh> mesh(
      new Mesh(std::move(world), *std::move(group), config, local_size));
  if (device_world == nullptr) return mesh;
  group = device_world->Split(mesh->rank() / s, mesh->rank() % s);
  if (!group.ok()) return group.status();
  mesh->device_world_ = std::move(device_world);
  mesh->device_sequence_ = *std::move(group);
  return mesh;
}

CommCounters Mesh::sequence_counters() const {
  return SumCounters(*sequence_, device_sequence_.get());
}

CommCounters Mesh::world_counters() const {
  return SumCounters(*world_, device_world_.get());
}

absl::Status Mesh::Settle(const ParameterStore& store) {
  if (device_world_ == nullptr) return absl::OkStatus();
  // An error of the communicators is the reason for one of the device.
  absl::Status done = store.values().backend().Synchronize();
  for (Communicator* comm : {device_sequence_.get(), device_world_.get()}) {
    absl::Status status = comm->Health();
    if (!status.ok()) return status;
  }
  return done;
}

Range Mesh::Rows(int64_t batch_size) const {
  const int64_t d = data_index(), n = config_.data();
  return {batch_size * d / n, batch_size * (d + 1) / n};
}

std::vector<Range> Mesh::Shards(const std::vector<Range>& buckets) const {
  std::vector<Range> shards;
  for (const Range& bucket : buckets) {
    const Part part = Slices(bucket, size())[rank()];
    shards.push_back({part.begin, part.end});
  }
  return shards;
}

int64_t Mesh::Pieces(int64_t length, int64_t chunk_length) const {
  if (Prefix()) return sequence_->size();
  return static_cast<int64_t>(CutIntoChunks(length, chunk_length).size());
}

absl::StatusOr<PassOutcome> Mesh::RunPass(LanguageModel& model,
                                          const PassRequest& request) {
  if (sequence_->size() == 1) return SingleRank().RunPass(model, request);
  if (Prefix())
    return RunPrefixPass(model, request, *sequence_, bulk_sequence(),
                         passes_++);
  absl::StatusOr<std::vector<PassOutcome>> outcomes =
      RunTogether(model, {&request});
  if (!outcomes.ok()) return outcomes.status();
  return std::move((*outcomes)[0]);
}

absl::StatusOr<std::vector<PassOutcome>> Mesh::RunPasses(
    LanguageModel& model, const std::vector<PassRequest>& requests) {
  if (sequence_->size() == 1 || Prefix()) {
    return Distribution::RunPasses(model, requests);
  }
  const size_t together = PassesInFlight(static_cast<int64_t>(requests.size()),
                                         sequence_->size(), model.layers());
  std::vector<PassOutcome> outcomes;
  for (size_t i = 0; i < requests.size(); i += together) {
    std::vector<const PassRequest*> group;
    for (size_t k = i; k < std::min(requests.size(), i + together); ++k) {
      group.push_back(&requests[k]);
    }
    absl::StatusOr<std::vector<PassOutcome>> some = RunTogether(model, group);
    if (!some.ok()) return some.status();
    for (PassOutcome& outcome : *some) outcomes.push_back(std::move(outcome));
  }
  return outcomes;
}

absl::StatusOr<std::vector<PassOutcome>> Mesh::RunTogether(
    LanguageModel& model, const std::vector<const PassRequest*>& requests) {
  const PassRequest& last = *requests.back();
  const std::vector<ChunkSpan> all =
      CutIntoChunks(last.batch.length, last.chunk_length);
  const auto chunks = static_cast<int64_t>(all.size());
  std::vector<ChunkSpan> mine;
  for (const ChunkSpan& span : all) {
    if (span.index % sequence_->size() == sequence_->rank()) {
      mine.push_back(span);
    }
  }
  std::vector<std::unique_ptr<WavefrontExchange>> exchanges;
  std::vector<StreamedPass> passes;
  int64_t widest = 0;
  for (const PassRequest* request : requests) {
    WavefrontExchange::Options options;
    options.batch = request->batch.batch;
    options.chunks = chunks;
    options.slot = static_cast<int64_t>(exchanges.size());
    options.pass = passes_++;
    options.initial = request->initial;
    exchanges.push_back(std::make_unique<WavefrontExchange>(
        bulk_sequence(), model, std::move(options)));
    passes.push_back({request->batch, exchanges.back().get()});
    widest = std::max(widest, request->batch.batch);
  }
  const bool has_last = !mine.empty() && mine.back().index + 1 == chunks;
  // From what all ranks know: a rank's own chunks may be the short one alone.
  const int64_t tapes =
      KeptTapes(model, widest, all.empty() ? 0 : all[0].end - all[0].begin,
                last.options.tape_memory_budget);
  absl::StatusOr<std::vector<std::vector<double>>> nll = RunStreamedPasses(
      model, passes, mine, tapes,
      HoldTapes(has_last, sequence_->size(), model.layers()), last.options);
  if (!nll.ok()) return nll.status();
  std::vector<PassOutcome> outcomes(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    outcomes[i].nll = ByRow((*nll)[i], mine, requests[i]->batch.batch, chunks);
    absl::StatusOr<std::vector<Carry>> final =
        exchanges[i]->Finish(requests[i]->want_final);
    if (!final.ok()) return final.status();
    outcomes[i].final = *std::move(final);
  }
  return outcomes;
}

absl::Status Mesh::Sum(std::vector<double>& values) {
  const Span span({.category = "wait", .name = "sum over ranks"});
  return world_->AllReduce(values.data(), static_cast<int64_t>(values.size()),
                           {"sum of losses or norms", -1, -1, ""});
}

absl::Status Mesh::StartReduce(ParameterStore& store, int64_t bucket) {
  store.CompleteGrads(bucket);
  if (size() == 1) return absl::OkStatus();
  if (next_bucket_ < 0) {
    next_bucket_ = static_cast<int64_t>(store.buckets().size()) - 1;
  }
  CARRY_CHECK(bucket == next_bucket_);
  // Bucket 0 is the embedding, bucket 1 + l is layer l.
  SpanInfo info{.category = "message", .name = "start reduction"};
  info.layer = bucket - 1;
  const Span span(info);
  const Range range = store.buckets()[bucket];
  const absl::StatusOr<Tensor> gradients = InMemoryOf(
      bulk_world(), store.grads().Slice(range.begin, {range.size()}));
  if (!gradients.ok()) return gradients.status();
  Reduction reduction = {range, *gradients, nullptr};
  reduction.transfer = bulk_world().ReduceScatter(
      gradients->f32(), Slices({0, range.size()}, size()),
      {"gradient reduction", bucket - 1, -1, "backward"});
  reducing_.push_back(std::move(reduction));
  --next_bucket_;
  return absl::OkStatus();
}

absl::Status Mesh::FinishReduce(ParameterStore& store) {
  if (size() == 1) {
    store.CompleteGrads();
    return absl::OkStatus();
  }
  if (next_bucket_ < 0) {
    next_bucket_ = static_cast<int64_t>(store.buckets().size()) - 1;
  }
  while (next_bucket_ >= 0) {
    absl::Status status = StartReduce(store, next_bucket_);
    if (!status.ok()) return status;
  }
  const Span span({.category = "wait", .name = "wait for reduction"});
  for (const Reduction& reduction : reducing_) {
    absl::Status status = reduction.transfer->Wait();
    if (!status.ok()) return status;
    const Part own = Slices({0, reduction.bucket.size()}, size())[rank()];
    CopyBack(
        reduction.gradients, own,
        store.grads().Slice(reduction.bucket.begin, {reduction.bucket.size()}));
  }
  reducing_.clear();
  return Settle(store);
}

absl::Status Mesh::GatherParameters(ParameterStore& store) {
  if (size() == 1) return absl::OkStatus();
  const Span span({.category = "wait", .name = "gather parameters"});
  for (size_t b = 0; b < store.buckets().size(); ++b) {
    const Range range = store.buckets()[b];
    const Tensor values = store.values().Slice(range.begin, {range.size()});
    const absl::StatusOr<Tensor> all = InMemoryOf(bulk_world(), values);
    if (!all.ok()) return all.status();
    absl::Status status = bulk_world().AllGatherParts(
        all->f32(), Slices({0, range.size()}, size()),
        {"parameter gather", static_cast<int64_t>(b) - 1, -1, ""});
    if (!status.ok()) return status;
    CopyBack(*all, {0, range.size()}, values);
  }
  store.Changed();
  ++updates_;
  const int64_t every = config_.audit_parameters_every();
  if (every > 0 && updates_ % every == 0) return CheckParameters(store);
  return absl::OkStatus();
}

absl::Status Mesh::CheckParameters(const ParameterStore& store) {
  const Tensor sum = Tensor::Empty({1}, DType::kI64);
  const Tensor& values = store.values();
  values.backend().Checksum(values.f32(), values.size(), sum.as<uint64_t>());
  uint64_t mine;
  absl::Status status = sum.backend().ToHost(&mine, sum.data(), sizeof(mine));
  if (!status.ok()) return status;
  return CheckEqual(absl::StrCat("parameters after update ", updates_),
                    absl::StrCat(absl::Hex(mine)));
}

absl::Status Mesh::Broadcast(const char* what, std::string& bytes) {
  const CommLabel label = {what, -1, -1, ""};
  int64_t length = static_cast<int64_t>(bytes.size());
  absl::Status status = world_->Broadcast(&length, sizeof(length), 0, label);
  if (!status.ok()) return status;
  bytes.resize(length);
  return world_->Broadcast(bytes.data(), length, 0, label);
}

absl::StatusOr<std::vector<std::string>> Mesh::Gather(
    const char* what, const std::string& bytes) {
  return GatherStrings(*world_, what, bytes);
}

absl::Status Mesh::CheckEqual(const std::string& what,
                              const std::string& text) {
  return carry::CheckEqual(*world_, what, text);
}

absl::Status CheckEqual(Communicator& world, const std::string& what,
                        const std::string& text) {
  const std::string digest =
      absl::StrCat(absl::Hex(XXH3_64bits(text.data(), text.size())));
  absl::StatusOr<std::vector<std::string>> all =
      GatherStrings(world, "comparison of ranks", digest);
  if (!all.ok()) return all.status();
  const int size = world.size();
  // The odd one is the one that most others differ from.
  for (int r = 0; r < size; ++r) {
    const auto alike = std::count(all->begin(), all->end(), (*all)[r]);
    if (alike == size) return absl::OkStatus();
    if (2 * alike <= size && (size > 2 || r > 0)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "rank ", r, " has another ", what, " than ", size - alike,
          size - alike == 1 ? " other rank" : " other ranks",
          "; start all ranks with one program, one recipe and the same data"));
    }
  }
  return absl::InternalError(absl::StrCat("the ranks differ in ", what));
}

}  // namespace carry
