#include "parallel/nccl_transfer.h"

#include <utility>

namespace carry {

NcclTransfer::NcclTransfer(std::shared_ptr<NcclWorld> world,
                           std::shared_ptr<NcclChannel> channel,
                           std::shared_ptr<NcclOperation> operation,
                           Start start)
    : world_(std::move(world)),
      channel_(std::move(channel)),
      operation_(std::move(operation)),
      start_(std::move(start)),
      status_(world_->MarkReady(*operation_)) {}

NcclTransfer::~NcclTransfer() {
  // Fails only where the world is broken.
  if (issued_ && !waited_) (void)world_->MakeComputeWait(*operation_);
}

void NcclTransfer::Issue() {
  if (issued_) return;
  issued_ = true;
  if (status_.ok()) status_ = world_->Issue(*channel_, operation_, start_);
}

bool NcclTransfer::Done() {
  Issue();
  if (!status_.ok() || !world_->Health().ok()) return true;
  const absl::StatusOr<bool> passed = operation_->end.Passed();
  if (!passed.ok()) status_ = passed.status();
  return !passed.ok() || *passed;
}

absl::Status NcclTransfer::Wait() {
  Issue();
  if (status_.ok()) status_ = world_->MakeComputeWait(*operation_);
  waited_ = true;
  return status_.ok() ? world_->Health() : status_;
}

}  // namespace carry
