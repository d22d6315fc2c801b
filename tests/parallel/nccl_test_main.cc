// Ranks on GPUs under mpirun (nccl_ranks.sh starts it).
//
//   nccl_ranks_test                all cases, on all ranks
//   nccl_ranks_test --probe        status 77 if there is no GPU
//   nccl_ranks_test --fault=NAME   what happens when a rank misbehaves
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "parallel/mpi_communicator.h"
#include "parallel/nccl_world.h"
#include "tests/parallel/nccl_test.h"

namespace carry {
namespace {

// Faults, on rank 0's side.

bool g_stay = false;  // when the communicator fails

void EndRank(const absl::Status& error) {
  std::fprintf(stderr, "on_failure: %s\n", error.ToString().c_str());
  if (!g_stay) _Exit(3);
}

[[noreturn]] void Sleep() {
  for (;;) pause();
}

// The host is stuck in a wait for the device: on_failure ends the rank.
int SilentPeer() {
  if (g_comm->rank() == 1) Sleep();
  Array<float> in(100);
  auto receive = g_comm->Receive(in.data(), in.bytes(), 1, 0, kForward);
  CARRY_CHECK(receive->Wait().ok());  // only enqueued
  (void)in.Get();
  Sleep();
}

// The host polls: it gets the error, from every call.
int SilentPeerPolled() {
  if (g_comm->rank() == 1) Sleep();
  auto* in = new Array<float>(100);
  auto receive = g_comm->Receive(in->data(), in->bytes(), 1, 0, kBackward);
  while (!receive->Done()) usleep(1000);
  const absl::Status error = receive->Wait();
  std::fprintf(stderr, "Wait: %s\n", error.ToString().c_str());
  const bool same =
      g_comm->Health() == error &&
      g_comm->Send(in->data(), 4, 1, 0, kForward)->Wait() == error &&
      g_comm->Barrier(kLabel) == error && g_comm->Split(0, 0).status() == error;
  std::fprintf(stderr, same ? "every call says so\n" : "calls differ\n");
  _Exit(3);
}

int SilentCollective() {
  if (g_comm->rank() == 1) Sleep();
  Array<float> grads(Values(100, 0));
  auto sum = g_comm->ReduceScatter(grads.data(), {{0, 50}, {50, 100}},
                                   {"gradient reduction", 2, -1, "backward"});
  CARRY_CHECK(sum->Wait().ok());
  (void)grads.Get();
  Sleep();
}

// A rank that does not come to a connection: the host is stuck in NCCL.
int AbsentPeer() {
  if (g_comm->rank() == 1) Sleep();
  const absl::StatusOr<const NcclLibrary*> nccl = LoadNccl("libnccl.so.2");
  CARRY_CHECK(nccl.ok());
  NcclOptions options;
  options.timeout_seconds = 2;
  options.on_failure = EndRank;
  NcclWorld world(*nccl, g_compute->get(), 0, options);
  NcclOperation greeting;
  greeting.peer = 1;
  greeting.kind = NcclOperation::kReceive;
  greeting.label = {"connecting", -1, -1, "forward"};
  ncclUniqueId id;
  (*nccl)->GetUniqueId(&id);
  const absl::Status status = world.Connect(id, 2, 0, 0, greeting).status();
  std::fprintf(stderr, "Connect: %s\n", status.ToString().c_str());
  return 1;
}

// Slower than the poller, faster than the timeout: no error.
int SlowPeer() {
  for (int i = 0; i < 3; ++i) {
    Array<float> x(100);
    if (g_comm->rank() == 1) {
      usleep(700000);
      CARRY_CHECK(g_comm->Send(x.data(), 400, 0, 0, kForward)->Wait().ok());
    } else {
      auto receive = g_comm->Receive(x.data(), 400, 1, 0, kForward);
      while (!receive->Done()) usleep(1000);
      CARRY_CHECK(receive->Wait().ok());
    }
    (void)x.Get();
  }
  const bool ok = g_comm->Health().ok();
  g_comm.reset();
  return ok ? 0 : 1;
}

// The launcher ends the others.
int DyingPeer() {
  if (g_comm->rank() == 1) std::raise(SIGKILL);
  return SilentPeer();
}

int RunFault(const std::string& name) {
  if (name == "silent") return SilentPeer();
  if (name == "silent-polled") return SilentPeerPolled();
  if (name == "silent-collective") return SilentCollective();
  if (name == "absent") return AbsentPeer();
  if (name == "slow") return SlowPeer();
  if (name == "dying") return DyingPeer();
  std::fprintf(stderr, "no fault is called %s\n", name.c_str());
  return 2;
}

int Skip(const absl::Status& why) {
  std::printf("SKIPPED: %s\n", why.ToString().c_str());
  return 77;
}

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  std::string fault;
  bool probe = false;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--probe") probe = true;
    if (arg.rfind("--fault=", 0) == 0) fault = arg.substr(8);
  }
  const absl::StatusOr<int> devices = cuda::CountDevices();
  if (!devices.ok()) return Skip(devices.status());
  if (probe) return 0;
  absl::StatusOr<MpiWorld> mpi = InitMpi(60);
  CARRY_CHECK(mpi.ok());
  g_host = std::move(mpi->world);
  const absl::StatusOr<cuda::DeviceProperties> device =
      cuda::UseDevice(mpi->local_rank % *devices);
  CARRY_CHECK(device.ok());
  g_compute = std::make_unique<cuda::OwnedStream>();
  CARRY_CHECK(g_compute->status().ok());
  NcclOptions options;
  options.timeout_seconds = fault.empty() ? 60 : 2;
  g_stay = fault == "silent-polled";
  options.on_failure = EndRank;
  auto comm =
      NcclCommunicator::Create(*g_host, g_compute->get(), std::move(options));
  // NCCL gives each rank a GPU of its own.
  if (!comm.ok() && *devices < mpi->local_size) {
    FinalizeMpi();
    return Skip(comm.status());
  }
  CARRY_CHECK(comm.ok());
  g_comm = *std::move(comm);
  const int status = fault.empty() ? RUN_ALL_TESTS() : RunFault(fault);
  g_comm.reset();
  g_compute.reset();
  FinalizeMpi();
  return status;
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) { return carry::Main(argc, argv); }
