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
  Staged(std::unique_ptr<Transfer> message, PinnedBlocks& blocks, void* block,
         int64_t bytes, cuda::Stream compute, void* data)
      : message_(std::move(message)),
        blocks_(blocks),
        block_(block),
        bytes_(bytes),
        compute_(compute),
        data_(data) {}

  ~Staged() override {
    // Not waited for: the host communicator is broken, or may still use it.
    if (block_ != nullptr && message_->Done()) blocks_.GiveBack(block_);
  }

  bool Done() override { return block_ == nullptr || message_->Done(); }

  absl::Status Wait() override {
    if (block_ == nullptr) return status_;
    status_ = message_->Wait();
    if (!status_.ok()) return status_;
    void* block = std::exchange(block_, nullptr);
    if (data_ == nullptr) {
      blocks_.GiveBack(block);
      return status_;
    }
    status_ = cuda::ToStatus(
        cuda::CopyAsync(data_, bytes_, block, bytes_, bytes_, 1, compute_));
    if (status_.ok()) status_ = blocks_.GiveBackAfter(block, compute_);
    return status_;
  }

 private:
  std::unique_ptr<Transfer> message_;
  PinnedBlocks& blocks_;
  void* block_;
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
  for (Block& block : in_use_) {
    (void)block.last_use.Wait();
    cuda::FreePinned(block.memory);
  }
}

void* PinnedBlocks::Take(int64_t bytes) {
  FreePassed();
  return cuda::MallocPinned(bytes);
}

void PinnedBlocks::GiveBack(void* block) { cuda::FreePinned(block); }

absl::Status PinnedBlocks::GiveBackAfter(void* block, cuda::Stream stream) {
  in_use_.push_back({block, cuda::Event()});
  return cuda::ToStatus(in_use_.back().last_use.Record(stream));
}

void PinnedBlocks::FreePassed() {
  while (!in_use_.empty()) {
    const absl::StatusOr<bool> passed = in_use_.front().last_use.Passed();
    if (!passed.ok() || !*passed) return;
    cuda::FreePinned(in_use_.front().memory);
    in_use_.pop_front();
  }
}

std::unique_ptr<Transfer> StagedSend(Communicator& host, PinnedBlocks& blocks,
                                     cuda::Stream compute, const void* data,
                                     int64_t bytes, int to, int tag,
                                     const CommLabel& label) {
  void* block = blocks.Take(bytes);
  if (block == nullptr) return FinishedTransfer(NoPinnedMemory(bytes, label));
  absl::Status status = cuda::ToStatus(
      cuda::CopyAsync(block, bytes, data, bytes, bytes, 1, compute));
  cuda::Event copied;
  if (status.ok()) status = cuda::ToStatus(copied.Record(compute));
  if (status.ok()) status = copied.Wait();
  if (!status.ok()) return FinishedTransfer(status);
  return std::make_unique<Staged>(host.Send(block, bytes, to, tag, label),
                                  blocks, block, bytes, compute, nullptr);
}

std::unique_ptr<Transfer> StagedReceive(Communicator& host,
                                        PinnedBlocks& blocks,
                                        cuda::Stream compute, void* data,
                                        int64_t bytes, int from, int tag,
                                        const CommLabel& label) {
  void* block = blocks.Take(bytes);
  if (block == nullptr) return FinishedTransfer(NoPinnedMemory(bytes, label));
  return std::make_unique<Staged>(host.Receive(block, bytes, from, tag, label),
                                  blocks, block, bytes, compute, data);
}

std::unique_ptr<Transfer> FinishedTransfer(absl::Status status) {
  return std::make_unique<Finished>(std::move(status));
}

}  // namespace carry
