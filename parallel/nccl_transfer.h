// An operation of NCCL's as a Transfer: marked in the compute stream when made,
// put into its channel by Issue, at the latest by Wait or Done.
#pragma once

#include <functional>
#include <memory>

#include "parallel/nccl_world.h"

namespace carry {

class NcclTransfer : public Transfer {
 public:
  using Start = std::function<ncclResult_t(ncclComm_t, cudaStream_t)>;

  NcclTransfer(std::shared_ptr<NcclWorld> world,
               std::shared_ptr<NcclChannel> channel,
               std::shared_ptr<NcclOperation> operation, Start start);
  // The buffer's next use in the compute stream comes after it, waited for or
  // not.
  ~NcclTransfer() override;

  void Issue();
  bool Done() override;
  absl::Status Wait() override;

 private:
  std::shared_ptr<NcclWorld> world_;
  std::shared_ptr<NcclChannel> channel_;
  std::shared_ptr<NcclOperation> operation_;
  Start start_;
  bool issued_ = false, waited_ = false;
  absl::Status status_;
};

}  // namespace carry
