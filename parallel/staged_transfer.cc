#include "parallel/staged_transfer.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

class Finished : public Transfer {
 public:
  explicit Finished(absl::Status status) : status_(std::move(status)) {}
  absl::Status Wait() override { return status_; }
  bool Done() override { return true; }

 private:
  absl::Status status_;
};

class Staged : public Transfer {
 public:
  // A send has filled its block already; a receive's goes to `data`.
  Staged(std::unique_ptr<Transfer> message, PinnedBlocks& blocks,
         PinnedBlocks::Block block, int64_t bytes, cuda::Stream compute,
         void* data)
      : message_(std::move(message)),
        blocks_(blocks),
        block_(block),
        bytes_(bytes),
        compute_(compute),
        data_(data) {}

  ~Staged() override {
    // A message that was not waited for may still be read from its block.
    if (block_.memory != nullptr && message_->Done()) blocks_.GiveBack(block_);
  }

  bool Done() override { return block_.memory == nullptr || message_->Done(); }

  absl::Status Wait() override {
    if (block_.memory == nullptr) return status_;
    status_ = message_->Wait();
    if (!status_.ok()) return status_;
    const PinnedBlocks::Block block = std::exchange(block_, {});
    if (data_ == nullptr) {
      blocks_.GiveBack(block);
      return status_;
    }
    status_ = cuda::ToStatus(cuda::CopyAsync(data_, bytes_, block.memory,
                                             bytes_, bytes_, 1, compute_));
    if (status_.ok()) status_ = blocks_.GiveBackAfter(block, compute_);
    return status_;
  }

 private:
  std::unique_ptr<Transfer> message_;
  PinnedBlocks& blocks_;
  PinnedBlocks::Block block_;  // no memory: done with
  int64_t bytes_;
  cuda::Stream compute_;
  void* data_;
  absl::Status status_;
};

absl::Status NoPinnedMemory(int64_t bytes, const CommLabel& label) {
  return absl::ResourceExhaustedError(
      absl::StrCat("no pinned host memory for a message of ", bytes,
                   " bytes in ", label.ToString(),
                   "; leave the machine more memory, or lower "
                   "training.micro_batch_size"));
}

}  // namespace

PinnedBlocks::~PinnedBlocks() {
  for (const InUse& use : in_use_) {
    (void)use.last_use.Wait();
    cuda::FreePinned(use.block.memory);
  }
  for (const auto& [bytes, block] : free_) cuda::FreePinned(block.memory);
}

PinnedBlocks::Block PinnedBlocks::Take(int64_t bytes) {
  while (!in_use_.empty()) {
    const absl::StatusOr<bool> passed = in_use_.front().last_use.Passed();
    if (!passed.ok() || !*passed) break;
    GiveBack(in_use_.front().block);
    in_use_.pop_front();
  }
  const auto fits = free_.lower_bound(bytes);
  if (fits == free_.end()) return {cuda::MallocPinned(bytes), bytes};
  const Block block = fits->second;
  free_.erase(fits);
  return block;
}

void PinnedBlocks::GiveBack(const Block& block) {
  free_.emplace(block.bytes, block);
}

absl::Status PinnedBlocks::GiveBackAfter(const Block& block,
                                         cuda::Stream stream) {
  in_use_.push_back({block, cuda::Event()});
  return cuda::ToStatus(in_use_.back().last_use.Record(stream));
}

std::unique_ptr<Transfer> StagedSend(Communicator& host, PinnedBlocks& blocks,
                                     cuda::Stream compute, const void* data,
                                     int64_t bytes, int to, int tag,
                                     const CommLabel& label) {
  const PinnedBlocks::Block block = blocks.Take(bytes);
  if (block.memory == nullptr) {
    return FinishedTransfer(NoPinnedMemory(bytes, label));
  }
  absl::Status status = cuda::ToStatus(
      cuda::CopyAsync(block.memory, bytes, data, bytes, bytes, 1, compute));
  cuda::Event copied;
  if (status.ok()) status = cuda::ToStatus(copied.Record(compute));
  if (status.ok()) status = copied.Wait();
  if (!status.ok()) return FinishedTransfer(status);
  return std::make_unique<Staged>(
      host.Send(block.memory, bytes, to, tag, label), blocks, block, bytes,
      compute, nullptr);
}

std::unique_ptr<Transfer> StagedReceive(Communicator& host,
                                        PinnedBlocks& blocks,
                                        cuda::Stream compute, void* data,
                                        int64_t bytes, int from, int tag,
                                        const CommLabel& label) {
  const PinnedBlocks::Block block = blocks.Take(bytes);
  if (block.memory == nullptr) {
    return FinishedTransfer(NoPinnedMemory(bytes, label));
  }
  return std::make_unique<Staged>(
      host.Receive(block.memory, bytes, from, tag, label), blocks, block, bytes,
      compute, data);
}

std::unique_ptr<Transfer> FinishedTransfer(absl::Status status) {
  return std::make_unique<Finished>(std::move(status));
}

}  // namespace carry
