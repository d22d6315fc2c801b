// Ranks on GPUs under mpirun (nccl_ranks.sh starts it). No kernels: data is
// made, moved and checked with copies, so that what is tested are messages and
// their order with the compute stream.
//
//   nccl_ranks_test                all cases, on all ranks
//   nccl_ranks_test --probe        status 77 if there is no GPU
//   nccl_ranks_test --fault=NAME   what happens when a rank misbehaves
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "framework/train/streamed_pass.h"
#include "gtest/gtest.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime.h"
#include "parallel/mpi_communicator.h"
#include "parallel/nccl_communicator.h"
#include "parallel/nccl_world.h"

namespace carry {
namespace {

constexpr CommLabel kLabel = {"test", 3, 17, ""};
constexpr CommLabel kForward = {"carry", 3, 17, "forward"};
constexpr CommLabel kBackward = {"carry", 3, 17, "backward"};

std::unique_ptr<Communicator> g_host;
std::unique_ptr<cuda::OwnedStream> g_compute;
std::unique_ptr<NcclCommunicator> g_comm;
bool g_stay = false;  // when the communicator fails

// Elements in device memory, written and read in the compute stream.
template <typename T>
class Array {
 public:
  explicit Array(int64_t n)
      : n_(n), data_(static_cast<T*>(cuda::MallocDevice(n * sizeof(T) + 1))) {
    CARRY_CHECK(data_ != nullptr);
  }
  explicit Array(const std::vector<T>& values)
      : Array(static_cast<int64_t>(values.size())) {
    Set(0, values);
  }
  ~Array() {
    CARRY_CHECK(cuda::Synchronize(g_compute->get(), "test").ok());
    cuda::FreeDevice(data_);
  }
  Array(const Array&) = delete;

  T* data() { return data_; }
  int64_t bytes() const { return n_ * static_cast<int64_t>(sizeof(T)); }
  void Set(int64_t at, const std::vector<T>& values) {
    Copy(data_ + at, values.data(), static_cast<int64_t>(values.size()));
  }
  void Set(int64_t at, T value) { Set(at, std::vector<T>{value}); }
  void Take(Array& from) { Copy(data_, from.data_, n_); }
  void Take(const T* from, int64_t n) { Copy(data_, from, n); }
  std::vector<T> Get() {
    std::vector<T> values(n_);
    Copy(values.data(), data_, n_);
    EXPECT_TRUE(cuda::Synchronize(g_compute->get(), "test").ok());
    return values;
  }

 private:
  static void Copy(T* to, const T* from, int64_t n) {
    const auto bytes = n * static_cast<int64_t>(sizeof(T));
    CARRY_CHECK(
        cuda::CopyAsync(to, bytes, from, bytes, bytes, 1, g_compute->get())
            .ok());
  }
  int64_t n_;
  T* data_;
};

int Right(const Communicator& c) { return (c.rank() + 1) % c.size(); }
int Left(const Communicator& c) { return (c.rank() + c.size() - 1) % c.size(); }

std::vector<float> Values(int64_t n, int rank) {
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 97 + 3 * rank);
  return x;
}

std::vector<Part> PartsOf(const std::vector<int64_t>& sizes) {
  std::vector<Part> parts;
  int64_t at = 5;  // not at the array's begin
  for (const int64_t n : sizes) {
    parts.push_back({at, at + n});
    at += n;
  }
  return parts;
}

// Each on the device and in host memory: same results, same counts.
void CheckCollectives(NcclCommunicator& comm) {
  Communicator& host = comm.host();
  const int size = comm.size(), rank = comm.rank();
  const CommCounters device_before = comm.counters();
  const CommCounters host_before = host.counters();

  for (int root = 0; root < size; ++root) {
    std::vector<float> x = Values(1000, rank);
    Array<float> d(x);
    EXPECT_TRUE(comm.Broadcast(d.data(), d.bytes(), root, kLabel).ok());
    EXPECT_TRUE(host.Broadcast(x.data(), d.bytes(), root, kLabel).ok());
    EXPECT_EQ(d.Get(), x);
  }
  for (const int64_t n : {0, 1, 300000}) {
    const std::vector<float> x = Values(n, rank);
    std::vector<float> all(n * size);
    Array<float> d(x), d_all(n * size), in_place(n * size);
    if (n > 0) in_place.Set(n * rank, x);
    EXPECT_TRUE(comm.AllGather(d.data(), d.bytes(), d_all.data(), kLabel).ok());
    EXPECT_TRUE(host.AllGather(x.data(), d.bytes(), all.data(), kLabel).ok());
    EXPECT_EQ(d_all.Get(), all);
    EXPECT_TRUE(comm.AllGather(in_place.data() + n * rank, d.bytes(),
                               in_place.data(), kLabel)
                    .ok());
    EXPECT_TRUE(host.AllGather(x.data(), d.bytes(), all.data(), kLabel).ok());
    EXPECT_EQ(in_place.Get(), all);
  }
  std::vector<double> sums = {rank + 1.0, 0.5, -3.0 * rank};
  Array<double> d_sums(sums);
  EXPECT_TRUE(comm.AllReduce(d_sums.data(), 3, kLabel).ok());
  EXPECT_TRUE(host.AllReduce(sums.data(), 3, kLabel).ok());
  EXPECT_EQ(d_sums.Get(), sums);
  EXPECT_TRUE(comm.Barrier(kLabel).ok());
  EXPECT_TRUE(host.Barrier(kLabel).ok());

  std::vector<std::vector<int64_t>> cases = {
      std::vector<int64_t>(size, 1000), std::vector<int64_t>(size, 0),
      std::vector<int64_t>(size, 7), std::vector<int64_t>(size, 0)};
  for (int r = 0; r < size; ++r) cases[2][r] = r == 1 ? 0 : 100 + r;
  cases[3][size - 1] = 11;  // one owner
  for (const auto& sizes : cases) {
    const std::vector<Part> parts = PartsOf(sizes);
    const int64_t n = parts.back().end + 3;
    std::vector<float> x = Values(n, rank);
    Array<float> d(x);
    auto on_device = comm.ReduceScatter(d.data(), parts, kLabel);
    EXPECT_TRUE(on_device->Wait().ok());
    EXPECT_TRUE(host.ReduceScatter(x.data(), parts, kLabel)->Wait().ok());
    EXPECT_EQ(d.Get(), x);  // parts of others keep what they held
    EXPECT_TRUE(comm.AllGatherParts(d.data(), parts, kLabel).ok());
    EXPECT_TRUE(host.AllGatherParts(x.data(), parts, kLabel).ok());
    EXPECT_EQ(d.Get(), x);
  }
  EXPECT_TRUE(comm.Health().ok());
  EXPECT_EQ(comm.counters().bytes - device_before.bytes,
            host.counters().bytes - host_before.bytes);
  EXPECT_EQ(comm.counters().messages - device_before.messages,
            host.counters().messages - host_before.messages);
}

TEST(Nccl, CollectivesGiveWhatTheHostGives) { CheckCollectives(*g_comm); }

// A round trip in both directions, of a message larger than NCCL's buffers.
void CheckNeighbours(Communicator& comm) {
  for (const CommLabel& label : {kForward, kBackward}) {
    const bool forward = label.direction[0] == 'f';
    const int to = forward ? Right(comm) : Left(comm);
    const int from = forward ? Left(comm) : Right(comm);
    for (const int64_t n : {0, 1, 1000000}) {
      Array<float> out(Values(n, comm.rank())), in(n);
      auto receive = comm.Receive(in.data(), in.bytes(), from, 0, label);
      auto send = comm.Send(out.data(), out.bytes(), to, 0, label);
      EXPECT_TRUE(receive->Wait().ok());
      EXPECT_TRUE(send->Wait().ok());
      EXPECT_EQ(in.Get(), Values(n, from));
      EXPECT_TRUE(receive->Done() && send->Done());
    }
  }
}

TEST(Nccl, NeighboursExchangeMessages) { CheckNeighbours(*g_comm); }

// Tags keep apart what does not go between neighbours in a direction.
TEST(Nccl, OtherMessagesGoThroughTheHostByTag) {
  NcclCommunicator& comm = *g_comm;
  // Without a direction; and, where there are three, to the left in a message
  // marked forward.
  for (const CommLabel& label : {kLabel, kForward}) {
    if (label.direction[0] != '\0' && comm.size() < 3) continue;
    Array<float> out(4), in(4);
    std::vector<std::unique_ptr<Transfer>> all;
    for (int i = 0; i < 4; ++i) {
      out.Set(i, 10.0f * comm.rank() + i);
      all.push_back(comm.Receive(in.data() + i, 4, Right(comm), i % 2, label));
    }
    for (const int i : {1, 0, 3, 2}) {
      all.push_back(comm.Send(out.data() + i, 4, Left(comm), i % 2, label));
      out.Set(i, -1);  // what was sent is on its way
    }
    for (auto& transfer : all) EXPECT_TRUE(transfer->Wait().ok());
    const float base = 10.0f * Right(comm);
    EXPECT_EQ(in.Get(),
              (std::vector<float>{base, base + 1, base + 2, base + 3}));
  }
  // One after the other, the compute stream far behind the host's buffers.
  std::vector<std::unique_ptr<Array<float>>> got;
  for (int i = 0; i < 4; ++i) {
    Array<float>& in = *got.emplace_back(std::make_unique<Array<float>>(1000));
    const std::vector<float> mine = Values(1000, 10 * i + comm.rank());
    auto send = comm.host().Send(mine.data(), 4000, Left(comm), 9, kLabel);
    auto receive = comm.Receive(in.data(), 4000, Right(comm), 9, kLabel);
    EXPECT_TRUE(receive->Wait().ok());
    EXPECT_TRUE(send->Wait().ok());
  }
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(got[i]->Get(), Values(1000, 10 * i + Right(comm))) << i;
  }
}

// A buffer is written, sent and written again; received into, read and received
// into again. Only events keep these apart.
TEST(Nccl, BuffersAreReusedInTheOrderOfTheComputeStream) {
  Communicator& comm = *g_comm;
  constexpr int64_t kN = 5000;
  constexpr int kRounds = 6;
  Array<float> out(kN), in(kN);
  std::vector<std::unique_ptr<Array<float>>> got;
  for (int i = 0; i < kRounds; ++i) {
    out.Set(0, Values(kN, 100 * i + comm.rank()));
    auto receive = comm.Receive(in.data(), in.bytes(), Left(comm), 0, kForward);
    auto send = comm.Send(out.data(), out.bytes(), Right(comm), 0, kForward);
    // Every other one is only destroyed.
    if (i % 2 == 0) {
      EXPECT_TRUE(send->Wait().ok());
    }
    send.reset();
    out.Set(0, Values(kN, -7));
    EXPECT_TRUE(receive->Wait().ok());
    got.push_back(std::make_unique<Array<float>>(kN));
    got.back()->Take(in);
    in.Set(0, Values(kN, -7));
  }
  for (int i = 0; i < kRounds; ++i) {
    EXPECT_EQ(got[i]->Get(), Values(kN, 100 * i + Left(comm))) << i;
  }
  // Gradients: reduced, used, overwritten.
  const std::vector<Part> parts =
      PartsOf(std::vector<int64_t>(comm.size(), 100));
  const Part own = parts[comm.rank()];
  Array<float> grads(parts.back().end);
  for (int i = 0; i < kRounds; ++i) {
    grads.Set(0, std::vector<float>(parts.back().end, i + 1.0f));
    EXPECT_TRUE(comm.ReduceScatter(grads.data(), parts, kLabel)->Wait().ok());
    got[i]->Take(grads.data() + own.begin, own.size());
  }
  grads.Set(0, std::vector<float>(parts.back().end, -1));
  for (int i = 0; i < kRounds; ++i) {
    EXPECT_EQ(got[i]->Get()[7], comm.size() * (i + 1.0f)) << i;
  }
}

// The messages of WAVEFRONT in its order, with receives posted for all layers
// at a chunk's first, as parallel/wavefront.cc does, and the host never waiting
// for the device. A carry is a trail: of all chunks it came by.
class Wavefront {
 public:
  Wavefront(Communicator& comm, int64_t layers, int64_t chunks, int64_t passes)
      : comm_(comm), layers_(layers), chunks_(chunks), passes_(passes) {}

  void Run(int64_t tapes, bool hold) {
    std::vector<int64_t> mine;
    for (int64_t c = comm_.rank(); c < chunks_; c += comm_.size()) {
      mine.push_back(c);
    }
    const auto spans = static_cast<int64_t>(mine.size());
    for (const StreamStep& step : StreamOrder(spans, passes_, tapes, hold)) {
      const int64_t chunk = mine[step.span];
      if (step.kind == StreamStep::kBackward) {
        for (int64_t l = layers_ - 1; l >= 0; --l) {
          Layer(false, step.pass, chunk, l);
        }
      } else if (step.kind != StreamStep::kRerun) {
        for (int64_t l = 0; l < layers_; ++l) Layer(true, step.pass, chunk, l);
      }
    }
    for (auto& send : sends_) EXPECT_TRUE(send->Wait().ok());
    for (Trail& t : trails_) {
      const std::vector<float> got = t.made->Get();
      for (int64_t c = 0; c < chunks_; ++c) {
        const bool passed = t.forward ? c <= t.chunk : c >= t.chunk;
        EXPECT_EQ(got[c], passed ? Stamp(t.forward, t.pass, c, t.layer) : 0.0f)
            << t.forward << " pass " << t.pass << ", chunk " << t.chunk
            << ", layer " << t.layer << ", trail " << c;
      }
    }
  }

 private:
  struct Trail {
    bool forward;
    int64_t pass, chunk, layer;
    std::unique_ptr<Array<float>> got, made;
  };
  float Stamp(bool forward, int64_t pass, int64_t chunk, int64_t layer) const {
    return static_cast<float>(
        1 + layer + layers_ * (pass + passes_ * (2 * chunk + forward)));
  }
  std::unique_ptr<Array<float>> Zeros() const {
    return std::make_unique<Array<float>>(
        std::vector<float>(static_cast<size_t>(chunks_)));
  }
  void Layer(bool forward, int64_t pass, int64_t chunk, int64_t layer) {
    const char* direction = forward ? "forward" : "backward";
    const int64_t before = forward ? chunk - 1 : chunk + 1;
    const int64_t after = forward ? chunk + 1 : chunk - 1;
    const auto rank_of = [&](int64_t c) {
      return static_cast<int>(c % comm_.size());
    };
    const bool has_before = before >= 0 && before < chunks_;
    if (has_before && layer == (forward ? 0 : layers_ - 1)) {
      receives_.resize(layers_);
      landing_.resize(layers_);
      for (int64_t l = 0; l < layers_; ++l) {
        landing_[l] = Zeros();
        receives_[l] =
            comm_.Receive(landing_[l]->data(), landing_[l]->bytes(),
                          rank_of(before), 0, {"carry", l, chunk, direction});
      }
    }
    Trail trail = {forward, pass, chunk, layer, nullptr, Zeros()};
    if (has_before) {
      EXPECT_TRUE(receives_[layer]->Wait().ok());
      trail.got = std::move(landing_[layer]);
      trail.made->Take(*trail.got);
    }
    trail.made->Set(chunk, Stamp(forward, pass, chunk, layer));
    if (after >= 0 && after < chunks_) {
      sends_.push_back(comm_.Send(trail.made->data(), trail.made->bytes(),
                                  rank_of(after), 0,
                                  {"carry", layer, after, direction}));
    }
    trails_.push_back(std::move(trail));
  }

  Communicator& comm_;
  const int64_t layers_, chunks_, passes_;
  std::vector<std::unique_ptr<Transfer>> receives_, sends_;
  std::vector<std::unique_ptr<Array<float>>> landing_;
  std::vector<Trail> trails_;
};

TEST(Nccl, WavefrontOrderWithBothDirectionsInFlight) {
  const int size = g_comm->size();
  for (const int64_t chunks : {size - 1, size, 3 * size + 1}) {
    SCOPED_TRACE(chunks);
    // Few tapes, held and not; tapes for all.
    for (const int64_t tapes : {1, 2, 12}) {
      Wavefront(*g_comm, 3, chunks, 3).Run(tapes, false);
      Wavefront(*g_comm, 3, chunks, 3).Run(tapes, true);
      // Or only by the last chunk's rank, which has no neighbour to wait for.
      const bool last = (chunks - 1) % size == g_comm->rank();
      Wavefront(*g_comm, 3, chunks, 3).Run(tapes, last);
    }
  }
}

TEST(Nccl, SplitGroupsWorkBesideEachOther) {
  Communicator& world = *g_comm;
  // In reverse order; then the even and the odd ranks.
  for (const bool halves : {false, true}) {
    const int color = halves ? world.rank() % 2 : 0;
    absl::StatusOr<std::unique_ptr<Communicator>> child =
        world.Split(color, halves ? world.rank() : -world.rank());
    ASSERT_TRUE(child.ok()) << child.status();
    auto& comm = dynamic_cast<NcclCommunicator&>(**child);
    if (!halves) {
      EXPECT_EQ(comm.size(), world.size());
      EXPECT_EQ(comm.rank(), world.size() - 1 - world.rank());
    } else {
      EXPECT_EQ(comm.size(), (world.size() + 1 - color) / 2);
    }
    CheckCollectives(comm);
    if (comm.size() > 1) CheckNeighbours(comm);
    // The parent's go on.
    CheckNeighbours(world);
  }
}

TEST(Nccl, AMissingLibraryIsToldToEveryRank) {
  for (const bool all : {true, false}) {
    NcclOptions options;
    options.timeout_seconds = 60;
    const bool missing = all || g_host->rank() == 1;
    if (missing) options.library = "libnccl-not-there.so.2";
    const absl::Status status =
        NcclCommunicator::Create(*g_host, g_compute->get(), options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    const std::string text(status.message());
    if (missing) {
      EXPECT_NE(text.find("libnccl-not-there.so.2"), std::string::npos) << text;
      EXPECT_NE(text.find("install NCCL"), std::string::npos) << text;
      EXPECT_NE(text.find("device: CPU"), std::string::npos) << text;
    } else {
      EXPECT_NE(text.find("rank 1 could not load NCCL"), std::string::npos)
          << text;
    }
  }
}

TEST(Nccl, WithoutNeighboursEverythingGoesThroughTheHost) {
  NcclOptions options;
  options.timeout_seconds = 60;
  options.neighbours = false;
  const auto comm =
      NcclCommunicator::Create(*g_host, g_compute->get(), options);
  ASSERT_TRUE(comm.ok()) << comm.status();
  const int64_t before = g_host->counters().bytes;
  CheckNeighbours(**comm);
  EXPECT_GT(g_host->counters().bytes, before + 8000000 - 1);
}

// ---------------------------------------------------------------------------
// Faults, on rank 0's side; rank 1 is silent.

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
