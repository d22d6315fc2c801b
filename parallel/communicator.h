// Messages and collectives between the ranks of a run.
//
// Three implementations share this page: ranks as threads of one process
// (parallel/thread_communicator.h), MPI with host buffers
// (parallel/mpi_communicator.h), and one for GPUs that is to come; callers do
// not know which.
//
// Errors. Every wait has the timeout that the communicator was made with. When
// it runs out the status is kDeadlineExceeded and names rank, peer, operation,
// layer, chunk and direction. After any error the communicator is broken:
// every later call fails at once with the first error. Whoever gets an error
// ends its process with a non-zero status (AbortRun), which ends all ranks.
//
// Sums are in an order that depends on the sizes alone: the same ranks twice
// give the same bits, and every rank gets the same bits.
//
// Thread safety: one thread a rank, except that buffers of a pending Transfer
// must not be touched by any.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace carry {

// What a message is for: only for errors and traces.
struct CommLabel {
  const char* operation = "";
  int64_t layer = -1;  // -1: of none
  int64_t chunk = -1;
  const char* direction = "";  // "forward", "backward" or nothing

  std::string ToString() const;  // "carry, layer 3, chunk 17, forward"
};

// Bytes and messages that this rank handed over, to any rank.
struct CommCounters {
  int64_t messages = 0;
  int64_t bytes = 0;
};

// A message on its way. Destroying one that was not waited for is allowed
// only after an error.
class Transfer {
 public:
  virtual ~Transfer() = default;
  // Returns when the buffer may be used again (send) or is filled (receive).
  virtual absl::Status Wait() = 0;
  // Whether Wait would return at once; drives progress.
  virtual bool Done() = 0;
};

// Elements [begin, end) of an array.
struct Part {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int size() const = 0;
  // Whose memory buffers are in. On a GPU's, calls do not wait for it
  // (parallel/nccl_communicator.h).
  virtual Device memory() const { return Device::kCpu; }
  // The error that broke the communicator, as far as it is known. Never waits.
  virtual absl::Status Health() const { return absl::OkStatus(); }

  // Point to point, asynchronous. A message meets the receive with the same
  // tag; those of one tag between two ranks arrive in order. `bytes` must be
  // equal on both sides: another size is an error. Buffers must live until
  // Wait returns. A rank does not send to itself. 0 <= tag < kMaxTag.
  virtual std::unique_ptr<Transfer> Send(const void* data, int64_t bytes,
                                         int to, int tag,
                                         const CommLabel& label) = 0;
  virtual std::unique_ptr<Transfer> Receive(void* data, int64_t bytes, int from,
                                            int tag,
                                            const CommLabel& label) = 0;
  static constexpr int kMaxTag = 1 << 20;

  // Collectives: all ranks call them in the same order with the same sizes.
  // The steps and bytes of each are in README.md.
  virtual absl::Status Barrier(const CommLabel& label);
  virtual absl::Status Broadcast(void* data, int64_t bytes, int root,
                                 const CommLabel& label);
  // out [size()][bytes], by rank.
  virtual absl::Status AllGather(const void* data, int64_t bytes, void* out,
                                 const CommLabel& label);
  // data[i] = sum over ranks, in rank order.
  virtual absl::Status AllReduce(double* data, int64_t n,
                                 const CommLabel& label);
  // parts[r] belongs to rank r. When the transfer is done, this rank's part of
  // `data` holds its sum over all ranks in rank order; the other parts keep
  // what they held and may be written again.
  virtual std::unique_ptr<Transfer> ReduceScatter(
      float* data, const std::vector<Part>& parts, const CommLabel& label);
  // Afterwards `data` holds every rank's own part.
  virtual absl::Status AllGatherParts(float* data,
                                      const std::vector<Part>& parts,
                                      const CommLabel& label);

  // Ranks of the same color, ordered by (key, rank). Collective.
  virtual absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                              int key) = 0;

  virtual CommCounters counters() const = 0;
};

}  // namespace carry
