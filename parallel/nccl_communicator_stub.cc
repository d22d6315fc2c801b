// In place of nccl_communicator.cc where carry is built without CUDA or without
// nccl.h.

#include "parallel/nccl_communicator.h"

namespace carry {

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(
    Communicator&, cuda::Stream, NcclOptions) {
  return absl::UnimplementedError(
      "several ranks on GPUs need NCCL, which this carry was built without; "
      "install nvcc and libnccl-dev and configure with -DCARRY_CUDA=ON, or set "
      "device: CPU");
}

}  // namespace carry
