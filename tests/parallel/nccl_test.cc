// Messages and collectives between ranks on GPUs; all ranks run all cases.
#include "tests/parallel/nccl_test.h"

#include <string>

#include "framework/train/streamed_pass.h"

namespace carry {
namespace {

int Right(const Communicator& c) { return (c.rank() + 1) % c.size(); }
int Left(const Communicator& c) { return (c.rank() + c.size() - 1) % c.size(); }

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

}  // namespace
}  // namespace carry
