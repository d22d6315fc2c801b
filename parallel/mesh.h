// The mesh of ranks, data x sequence, as a training step sees it.
//
// Rank r has the place (d, s) = (r / S, r mod S). Ranks of equal d work on the
// same rows of the batch and share each sequence; rows are dealt to d in
// contiguous ranges. Gradients are summed over all ranks, bucket by bucket
// while backward still runs; every rank keeps the optimizer state of its slice
// of each bucket (ZeRO-1, arXiv 1910.02054 section 5).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "framework/train/distribution.h"
#include "parallel/communicator.h"
#include "recipes/schema/parallel.pb.h"

namespace carry {

// kInvalidArgument if the mesh of the recipe is not of `ranks` ranks; the error
// says which sizes are.
absl::Status CheckMeshSize(const config::Parallel& config, int ranks);

// The strings of all ranks, by rank, on every rank. Collective.
absl::StatusOr<std::vector<std::string>> GatherStrings(
    Communicator& world, const char* what, const std::string& bytes);

// Distribution::CheckEqual before there is a mesh.
absl::Status CheckEqual(Communicator& world, const std::string& what,
                        const std::string& text);

class Mesh : public Distribution {
 public:
  // Collective over `world`. Errors of CheckMeshSize. REQUIRES a schedule other
  // than AUTO (parallel/plan.h). `local_size`: of the world, on this
  // machine.
  //
  // `device_world`, of the same ranks, carries gradients, weights, carries and
  // summaries where those are on GPUs; without it they go through `world`.
  static absl::StatusOr<std::unique_ptr<Mesh>> Create(
      std::unique_ptr<Communicator> world, const config::Parallel& config,
      int local_size = 1, std::unique_ptr<Communicator> device_world = nullptr);

  int rank() const override { return world_->rank(); }
  int size() const override { return world_->size(); }
  int local_size() const override { return local_size_; }
  int data_index() const { return rank() / sequence_->size(); }
  int sequence_index() const { return sequence_->rank(); }

  Range Rows(int64_t batch_size) const override;
  std::vector<Range> Shards(const std::vector<Range>& buckets) const override;
  int64_t Pieces(int64_t length, int64_t chunk_length) const override;
  absl::StatusOr<PassOutcome> RunPass(LanguageModel& model,
                                      const PassRequest& request) override;
  absl::StatusOr<std::vector<PassOutcome>> RunPasses(
      LanguageModel& model, const std::vector<PassRequest>& requests) override;
  absl::Status Sum(std::vector<double>& values) override;
  absl::Status StartReduce(ParameterStore& store, int64_t bucket) override;
  absl::Status FinishReduce(ParameterStore& store) override;
  absl::Status GatherParameters(ParameterStore& store) override;
  absl::Status Broadcast(const char* what, std::string& bytes) override;
  absl::StatusOr<std::vector<std::string>> Gather(
      const char* what, const std::string& bytes) override;

  absl::Status CheckEqual(const std::string& what,
                          const std::string& text) override;

  // Bytes that this rank sent: carries, and everything else.
  CommCounters sequence_counters() const;
  CommCounters world_counters() const;

 private:
  Mesh(std::unique_ptr<Communicator> world,
       std::unique_ptr<Communicator> sequence, const config::Parallel& config,
       int local_size)
      : world_(std::move(world)),
        sequence_(std::move(sequence)),
        config_(config),
        local_size_(local_size) {}
  // For numbers of tensors.
  Communicator& bulk_world() {
    return device_world_ != nullptr ? *device_world_ : *world_;
  }
  Communicator& bulk_sequence() {
    return device_sequence_ != nullptr ? *device_sequence_ : *sequence_;
  }
  // What a device's communicators have found, once the device has come to here.
  absl::Status Settle(const ParameterStore& store);
  // Contiguous shards; WAVEFRONT otherwise. One rank needs no schedule.
  bool Prefix() const {
    return config_.schedule() == config::Parallel::PREFIX &&
           sequence_->size() > 1;
  }
  // WAVEFRONT: these passes interleaved.
  absl::StatusOr<std::vector<PassOutcome>> RunTogether(
      LanguageModel& model, const std::vector<const PassRequest*>& requests);
  absl::Status CheckParameters(const ParameterStore& store);

  std::unique_ptr<Communicator> world_;
  std::unique_ptr<Communicator> sequence_;  // ranks of this data index
  std::unique_ptr<Communicator> device_world_, device_sequence_;
  config::Parallel config_;
  int local_size_;
  int64_t next_bucket_ = -1;  // to reduce next; -1: none is under way
  // A bucket's gradients on their way: the store's own or, where messages of a
  // GPU's are in host memory, copies.
  struct Reduction {
    Range bucket;
    Tensor gradients;
    std::unique_ptr<Transfer> transfer;
  };
  std::vector<Reduction> reducing_;
  int64_t updates_ = 0;
  uint32_t passes_ = 0;  // for seals
};

}  // namespace carry
