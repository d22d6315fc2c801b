// What the NCCL communicators of a process share: their streams, what is under
// way on them, and the threads that watch it.
//
// Two threads, because a driver that hangs would hang who asks it:
//   poller   asks events and communicators every 50 ms; aborts all
//            communicators once the world is broken
//   watch    calls neither CUDA nor NCCL; looks at what the poller found and at
//            how long the main thread is in a call of NCCL's, breaks the world
//            after the timeout, calls options.on_failure
//
// Communicators are made to block in such calls where they set up connections.
// Those that never block start a thread for each operation in recent versions
// of NCCL, which would take the host longer than a layer's kernels.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/runtime.h"
#include "parallel/nccl_communicator.h"
#include "parallel/nccl_library.h"

namespace carry {

// One operation of a stream of NCCL's.
struct NcclOperation {
  using Clock = std::chrono::steady_clock;
  enum Kind { kSend, kReceive, kCollective };

  // For errors.
  int rank = 0;
  int peer = 0;  // of a collective: the number of ranks
  Kind kind = kCollective;
  CommLabel label;
  std::string Who() const;  // "rank 0 receiving from rank 1 in carry, layer 3"

  // In the compute stream, where its buffer is ready; around it in its own.
  cuda::Event ready, begin, end;

  // Guarded by NcclWorld's mutex.
  Clock::time_point issued, begun;
  bool has_begun = false;
};

// An NCCL communicator and the stream of all its operations.
struct NcclChannel {
  // nullptr: ended. Changed under NcclWorld::calls_, but by a last resort.
  std::atomic<ncclComm_t> comm = nullptr;
  cuda::OwnedStream stream{/*urgent=*/true};
  // Put into the stream and not seen to have ended; by NcclWorld::mutex_.
  std::deque<std::shared_ptr<NcclOperation>> running;
};

class NcclWorld {
 public:
  using Call = absl::FunctionRef<ncclResult_t(ncclComm_t, cudaStream_t)>;

  // `nccl` is nullptr in a world of one rank, which has no channels.
  NcclWorld(const NcclLibrary* nccl, cuda::Stream compute, int device,
            NcclOptions options);
  ~NcclWorld();

  const NcclLibrary& nccl() const { return *nccl_; }
  cuda::Stream compute() const { return compute_; }
  const NcclOptions& options() const { return options_; }

  absl::Status Health() const;
  // The first error stays. `tell`: on_failure.
  void Break(const absl::Status& error, bool tell);

  // Collective over the channel's ranks. `most_blocks` bounds the thread blocks
  // of its kernels; 0: NCCL's choice. `what` is for errors.
  absl::StatusOr<std::shared_ptr<NcclChannel>> Connect(
      const ncclUniqueId& id, int ranks, int rank, int most_blocks,
      const NcclOperation& what);
  // Waits for what is under way, unless the world is broken.
  void Disconnect(NcclChannel& channel);

  // The point in the compute stream from which on the buffers may be used.
  absl::Status MarkReady(NcclOperation& operation);
  // Puts `call` into the channel's stream, after that point.
  absl::Status Issue(NcclChannel& channel,
                     const std::shared_ptr<NcclOperation>& operation,
                     Call call);
  // What comes into the compute stream waits for the operation's end.
  absl::Status MakeComputeWait(const NcclOperation& operation);
  // Host waits for its end, as long as the world is whole.
  absl::Status WaitOnHost(NcclChannel& channel, const NcclOperation& operation);

 private:
  using Clock = NcclOperation::Clock;
  absl::Status Cuda(const cuda::LaunchStatus& status, const NcclOperation& op);
  // Waits until NCCL has done its part on the host, should calls not block
  // (NCCL_COMM_BLOCKING=0 in the environment).
  absl::Status Settle(ncclComm_t comm, ncclResult_t result,
                      const NcclOperation& what);
  // Tells the watch of a call that the main thread is about to make, or of
  // none.
  void EnterCall(const NcclOperation* what);
  void Poll();
  void PollChannel(NcclChannel& channel);
  void AbortAll();
  void Watch();
  // The operation that is overdue, if one is. `blind`: the poller is stuck.
  const NcclOperation* Overdue(bool blind) const;
  // This and earlier ones have ended. Under mutex_.
  void RemoveUpTo(NcclChannel& channel, const NcclOperation& operation);

  const NcclLibrary* const nccl_;
  const cuda::Stream compute_;
  const int device_;
  const NcclOptions options_;
  const Clock::duration timeout_;

  // Held around every NCCL call on a communicator; never while waiting for the
  // device. Before mutex_ where both are held.
  std::timed_mutex calls_;
  mutable std::mutex mutex_;  // guards what follows, and `running` of channels
  std::condition_variable changed_;
  absl::Status broken_;
  bool tell_ = false, stop_ = false;
  std::vector<std::shared_ptr<NcclChannel>> channels_;
  const NcclOperation* call_ = nullptr;  // that the main thread is in
  Clock::time_point call_since_;
  Clock::time_point last_end_;   // of any operation
  Clock::time_point last_poll_;  // the poller came round

  std::atomic<bool> is_broken_ = false;
  std::thread poller_, watch_;
};

}  // namespace carry
