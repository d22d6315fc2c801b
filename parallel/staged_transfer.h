// Messages between device memory of ranks that have no connection of NCCL's:
// through pinned host memory and the host communicator, which keeps tags apart.
//
// The host waits: a send for the compute stream to come to where it was called,
// Wait for the message.
//
// Thread safety: as the host communicator.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"
#include "parallel/communicator.h"

namespace carry {

// Pinned host memory. Kept for the next message: to allocate or free it stops
// the device.
class PinnedBlocks {
 public:
  struct Block {
    void* memory = nullptr;
    int64_t bytes = 0;
  };

  PinnedBlocks() = default;
  ~PinnedBlocks();
  PinnedBlocks(const PinnedBlocks&) = delete;
  PinnedBlocks& operator=(const PinnedBlocks&) = delete;

  // Of at least so many bytes; no memory if there is none left.
  Block Take(int64_t bytes);
  void GiveBack(const Block& block);
  // GiveBack once `stream` has come to this point.
  absl::Status GiveBackAfter(const Block& block, cuda::Stream stream);

 private:
  struct InUse {
    Block block;
    cuda::Event last_use;
  };
  std::multimap<int64_t, Block> free_;  // by size
  std::deque<InUse> in_use_;            // by copies of the device
};

// `data` is device memory; `blocks` outlives the transfer.
std::unique_ptr<Transfer> StagedSend(Communicator& host, PinnedBlocks& blocks,
                                     cuda::Stream compute, const void* data,
                                     int64_t bytes, int to, int tag,
                                     const CommLabel& label);
std::unique_ptr<Transfer> StagedReceive(Communicator& host,
                                        PinnedBlocks& blocks,
                                        cuda::Stream compute, void* data,
                                        int64_t bytes, int from, int tag,
                                        const CommLabel& label);

// Did nothing, or failed to start.
std::unique_ptr<Transfer> FinishedTransfer(absl::Status status);

}  // namespace carry
