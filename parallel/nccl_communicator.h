// Ranks with a GPU each, messages in device memory, carried by NCCL.
//
// Everything is asynchronous: nothing here waits for the device but Create,
// Split, the destructor and messages that go through the host (below). Work is
// ordered with that of the compute stream, which the caller computes in:
//
//   Send, Receive, ReduceScatter   start when the compute stream has come to
//                                  where they were called
//   Transfer::Wait                 makes the compute stream wait, not the host
//   Transfer::Done                 whether the device is through with it
//   Barrier, Broadcast, AllGather, AllReduce, AllGatherParts
//                                  both: OK means that they were enqueued
//
// So buffers of a Transfer belong to it from the call on to what the compute
// stream does after Wait, and the host sees a result after
// cuda::Synchronize(compute) and then Health(): after an error the device's
// waits end early, with buffers that hold anything.
//
// Order. NCCL has no tags, and a Receive is put into its stream by its Wait (or
// Done): among neighbours of the ring of ranks, messages of one label.direction
// must be waited for in the order in which they are sent; tags are not looked
// at, and another size is not found. Other messages keep their tags. README.md
// says which way a message takes and why none waits in a circle.
//
// Sums are in an order that depends on sizes and on how the GPUs are linked:
// the same ranks on the same machines give the same bits twice, and every rank
// gets the same bits.
//
// Errors: as in communicator.h, but found by a thread beside the caller's.
// When operations are under way on the device and none has ended for
// `timeout_seconds`, or NCCL reports an error, all communicators of the world
// break: NCCL's kernels are ended, the next call of any kind returns the error,
// and options.on_failure is told, for a host that is stuck elsewhere.
//
// counters() are those of the schemes in README.md, the same as over MPI,
// whatever NCCL puts on its wires.
//
// Built where nvcc and nccl.h are; otherwise nccl_communicator_stub.cc takes
// the place of nccl_communicator.cc. Thread safety: as communicator.h.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch_status.h"
#include "parallel/communicator.h"

namespace carry {

struct NcclOptions {
  double timeout_seconds = 600;
  // Whether neighbours of this group get connections of their own; without,
  // all messages go through the host. Communicators from Split have them.
  bool neighbours = true;
  // Called at most once, by another thread and without locks held, with the
  // error that it found. May end the process; must not call MPI, which belongs
  // to the main thread.
  std::function<void(const absl::Status&)> on_failure;
  std::string library = "libnccl.so.2";
};

class NcclCommunicator : public Communicator {
 public:
  // Collective over `host`, which has the same ranks, carries the bootstrap and
  // outlives what is returned. The calling thread has its GPU
  // (cuda::UseDevice); `compute` is a stream of it. If a rank cannot load NCCL
  // all of them get an error.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Create(
      Communicator& host, cuda::Stream compute, NcclOptions options);

  Device memory() const override { return Device::kCuda; }
  // The same ranks, for messages in host memory.
  virtual Communicator& host() = 0;
};

}  // namespace carry
