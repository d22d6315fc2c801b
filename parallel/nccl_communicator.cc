#include "parallel/nccl_communicator.h"

#include <cuda_runtime_api.h>

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/device_spans.h"
#include "parallel/nccl_transfer.h"
#include "parallel/nccl_world.h"
#include "parallel/staged_transfer.h"

namespace carry {
namespace {

// A carry is some MB at most and its receiver's kernel waits on the GPU for it:
// two blocks move it at tens of GB/s and leave the multiprocessors to others.
// From published NVLink rates; not measured here.
constexpr int kNeighbourBlocks = 2;
constexpr int kIdTag = 0;

// Equal parts that lie one after the other, for which NCCL has one operation.
bool Uniform(const std::vector<Part>& parts) {
  for (size_t i = 0; i < parts.size(); ++i) {
    if (parts[i].size() != parts[0].size()) return false;
    if (i > 0 && parts[i].begin != parts[i - 1].end) return false;
  }
  return true;
}

absl::Status MakeId(const NcclLibrary& nccl, ncclUniqueId* id) {
  const ncclResult_t result = nccl.GetUniqueId(id);
  if (result == ncclSuccess) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("connecting ranks: NCCL: ", nccl.Explain(result)));
}

class Implementation : public NcclCommunicator {
 public:
  Implementation(Communicator& host, std::unique_ptr<Communicator> owned,
                 std::shared_ptr<NcclWorld> world)
      : host_(host),
        owned_host_(std::move(owned)),
        world_(std::move(world)),
        rank_(host.rank()),
        size_(host.size()) {}

  ~Implementation() override {
    // In the order in which they were connected, should one wait for the other
    // side.
    for (const Channel& channel : opened_) world_->Disconnect(*channel);
    if (scratch_ != nullptr) cuda::FreeDevice(scratch_);
  }

  // Collective: connections of the group and, with `neighbours`, along its
  // ring.
  absl::Status Connect(bool neighbours);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  CommCounters counters() const override { return counters_; }
  absl::Status Health() const override { return world_->Health(); }
  Communicator& host() override { return host_; }

  std::unique_ptr<Transfer> Send(const void* data, int64_t bytes, int to,
                                 int tag, const CommLabel& label) override;
  std::unique_ptr<Transfer> Receive(void* data, int64_t bytes, int from,
                                    int tag, const CommLabel& label) override;
  absl::Status Barrier(const CommLabel& label) override;
  absl::Status Broadcast(void* data, int64_t bytes, int root,
                         const CommLabel& label) override;
  absl::Status AllGather(const void* data, int64_t bytes, void* out,
                         const CommLabel& label) override;
  absl::Status AllReduce(double* data, int64_t n,
                         const CommLabel& label) override;
  std::unique_ptr<Transfer> ReduceScatter(float* data,
                                          const std::vector<Part>& parts,
                                          const CommLabel& label) override;
  absl::Status AllGatherParts(float* data, const std::vector<Part>& parts,
                              const CommLabel& label) override;
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                      int key) override;

 private:
  using Channel = std::shared_ptr<NcclChannel>;
  int Right(int rank) const { return (rank + 1) % size_; }
  int Left(int rank) const { return (rank + size_ - 1) % size_; }

  // Both connections between `left` and its right neighbour, of which this rank
  // is one.
  absl::Status ConnectEdge(int left, const ncclUniqueId ids[2]);
  // Connects `ranks` ranks as `channel`. NCCL sets a connection up with its
  // first message, `greeting`; later ones need not wait for that on the host.
  absl::Status Open(const ncclUniqueId& id, int ranks, int rank,
                    int most_blocks,
                    const std::shared_ptr<NcclOperation>& greeting,
                    NcclTransfer::Start start, Channel& channel);
  // This rank's connection for messages to (`send`) or from `peer`; nullptr:
  // through the host.
  const Channel* ChannelFor(int peer, const CommLabel& label, bool send) const;

  std::shared_ptr<NcclOperation> Operation(NcclOperation::Kind kind, int peer,
                                           const CommLabel& label) const;
  std::unique_ptr<NcclTransfer> Collective(const CommLabel& label,
                                           NcclTransfer::Start start);
  void Count(int64_t messages, int64_t bytes) {
    counters_.messages += messages;
    counters_.bytes += bytes;
  }

  Communicator& host_;
  const std::unique_ptr<Communicator> owned_host_;
  const std::shared_ptr<NcclWorld> world_;
  const int rank_, size_;
  PinnedBlocks pinned_;
  float* scratch_ = nullptr;  // [size] of the device; numbers of no meaning
  Channel group_;             // all ranks; collectives
  // To and from the right and the left neighbour, by label.direction.
  Channel forward_out_, forward_in_, backward_out_, backward_in_;
  std::vector<Channel> opened_;  // those above
  CommCounters counters_;
};

std::shared_ptr<NcclOperation> Implementation::Operation(
    NcclOperation::Kind kind, int peer, const CommLabel& label) const {
  auto operation = std::make_shared<NcclOperation>();
  operation->rank = rank_;
  operation->peer = peer;
  operation->kind = kind;
  operation->label = label;
  if (cuda::DeviceSpans::Get().enabled()) {
    operation->begin = cuda::Event(/*timed=*/true);
    operation->end = cuda::Event(/*timed=*/true);
  }
  return operation;
}

absl::Status Implementation::Connect(bool neighbours) {
  if (size_ == 1) return absl::OkStatus();
  scratch_ = static_cast<float*>(
      cuda::MallocDevice(size_ * static_cast<int64_t>(sizeof(float))));
  if (scratch_ == nullptr) {
    return absl::ResourceExhaustedError(
        "no device memory to connect ranks; another program may use the GPU, "
        "nvidia-smi shows it");
  }
  const CommLabel label = {"connecting", -1, -1, ""};
  // The group's, and those of this rank's edge to the right.
  ncclUniqueId group{}, right[2]{}, left[2]{};
  const NcclLibrary& nccl = world_->nccl();
  absl::Status status;
  if (rank_ == 0) status = MakeId(nccl, &group);
  if (status.ok()) status = host_.Broadcast(&group, sizeof(group), 0, label);
  if (!status.ok()) return status;
  status = Open(
      group, size_, rank_, 0,
      Operation(NcclOperation::kCollective, size_, label),
      [&](ncclComm_t comm, cudaStream_t stream) {
        return nccl.AllGather(scratch_ + rank_, scratch_, 1, ncclFloat32, comm,
                              stream);
      },
      group_);
  if (!status.ok() || !neighbours) return status;

  for (ncclUniqueId& id : right) {
    if (status.ok()) status = MakeId(nccl, &id);
  }
  if (!status.ok()) return status;
  auto in = host_.Receive(left, sizeof(left), Left(rank_), kIdTag, label);
  auto out = host_.Send(right, sizeof(right), Right(rank_), kIdTag, label);
  status = in->Wait();
  if (status.ok()) status = out->Wait();
  // Three rounds, in each of which a rank is at one edge at most: those that
  // begin at even ranks, at odd ones, and the last of an odd ring.
  for (int round = 0; round < 3 && status.ok(); ++round) {
    for (const int edge : {rank_, Left(rank_)}) {
      const bool odd_one = edge == size_ - 1 && size_ % 2 == 1;
      if ((odd_one ? 2 : edge % 2) != round || !status.ok()) continue;
      status = ConnectEdge(edge, edge == rank_ ? right : left);
    }
  }
  return status;
}

absl::Status Implementation::ConnectEdge(int left, const ncclUniqueId ids[2]) {
  const bool at_left = left == rank_;
  const int peer = at_left ? Right(rank_) : left;
  const int here = at_left ? 0 : 1, there = 1 - here;
  const NcclLibrary& nccl = world_->nccl();
  for (const bool forward : {true, false}) {
    const bool send = forward == at_left;
    absl::Status status = Open(
        ids[forward ? 0 : 1], 2, here, kNeighbourBlocks,
        Operation(send ? NcclOperation::kSend : NcclOperation::kReceive, peer,
                  {"connecting", -1, -1, forward ? "forward" : "backward"}),
        [&](ncclComm_t comm, cudaStream_t stream) {
          return send ? nccl.Send(scratch_, 1, ncclInt8, there, comm, stream)
                      : nccl.Recv(scratch_, 1, ncclInt8, there, comm, stream);
        },
        forward ? (send ? forward_out_ : forward_in_)
                : (send ? backward_out_ : backward_in_));
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Implementation::Open(
    const ncclUniqueId& id, int ranks, int rank, int most_blocks,
    const std::shared_ptr<NcclOperation>& greeting, NcclTransfer::Start start,
    Channel& channel) {
  absl::StatusOr<Channel> opened =
      world_->Connect(id, ranks, rank, most_blocks, *greeting);
  if (!opened.ok()) return opened.status();
  channel = *std::move(opened);
  opened_.push_back(channel);
  NcclTransfer transfer(world_, channel, greeting, std::move(start));
  absl::Status status = transfer.Wait();
  return status.ok() ? world_->WaitOnHost(*channel, *greeting) : status;
}

const Implementation::Channel* Implementation::ChannelFor(
    int peer, const CommLabel& label, bool send) const {
  const std::string_view direction = label.direction;
  const Channel* channel = nullptr;
  if (direction == "forward" && peer == (send ? Right(rank_) : Left(rank_))) {
    channel = send ? &forward_out_ : &forward_in_;
  }
  if (direction == "backward" && peer == (send ? Left(rank_) : Right(rank_))) {
    channel = send ? &backward_out_ : &backward_in_;
  }
  return channel == nullptr || *channel == nullptr ? nullptr : channel;
}

std::unique_ptr<Transfer> Implementation::Send(const void* data, int64_t bytes,
                                               int to, int tag,
                                               const CommLabel& label) {
  CARRY_CHECK(to >= 0 && to < size_ && to != rank_);
  Count(1, bytes);
  if (bytes == 0 || !Health().ok()) return FinishedTransfer(Health());
  const Channel* channel = ChannelFor(to, label, /*send=*/true);
  if (channel == nullptr) {
    auto transfer = StagedSend(host_, pinned_, world_->compute(), data, bytes,
                               to, tag, label);
    // Had it broken meanwhile, `data` would hold anything.
    absl::Status health = Health();
    return health.ok() ? std::move(transfer) : FinishedTransfer(health);
  }
  const bool forward = channel == &forward_out_;
  auto transfer = std::make_unique<NcclTransfer>(
      world_, *channel, Operation(NcclOperation::kSend, to, label),
      [&nccl = world_->nccl(), data, bytes, forward](ncclComm_t comm,
                                                     cudaStream_t stream) {
        return nccl.Send(data, bytes, ncclInt8, forward ? 1 : 0, comm, stream);
      });
  transfer->Issue();
  return transfer;
}

std::unique_ptr<Transfer> Implementation::Receive(void* data, int64_t bytes,
                                                  int from, int tag,
                                                  const CommLabel& label) {
  CARRY_CHECK(from >= 0 && from < size_ && from != rank_);
  if (bytes == 0 || !Health().ok()) return FinishedTransfer(Health());
  const Channel* channel = ChannelFor(from, label, /*send=*/false);
  if (channel == nullptr) {
    return StagedReceive(host_, pinned_, world_->compute(), data, bytes, from,
                         tag, label);
  }
  const bool forward = channel == &forward_in_;
  // Not issued yet: Wait does that, in the order of the sends.
  return std::make_unique<NcclTransfer>(
      world_, *channel, Operation(NcclOperation::kReceive, from, label),
      [&nccl = world_->nccl(), data, bytes, forward](ncclComm_t comm,
                                                     cudaStream_t stream) {
        return nccl.Recv(data, bytes, ncclInt8, forward ? 0 : 1, comm, stream);
      });
}

std::unique_ptr<NcclTransfer> Implementation::Collective(
    const CommLabel& label, NcclTransfer::Start start) {
  auto transfer = std::make_unique<NcclTransfer>(
      world_, group_, Operation(NcclOperation::kCollective, size_, label),
      std::move(start));
  transfer->Issue();
  return transfer;
}

absl::Status Implementation::Barrier(const CommLabel& label) {
  if (size_ == 1) return Health();
  for (int distance = 1; distance < size_; distance *= 2) Count(1, 1);
  return Collective(label,
                    [this](ncclComm_t comm, cudaStream_t stream) {
                      return world_->nccl().AllReduce(scratch_, scratch_, 1,
                                                      ncclFloat32, ncclSum,
                                                      comm, stream);
                    })
      ->Wait();
}

absl::Status Implementation::Broadcast(void* data, int64_t bytes, int root,
                                       const CommLabel& label) {
  if (size_ == 1 || bytes == 0) return Health();
  // Children in the binomial tree.
  const int me = (rank_ + size_ - root) % size_;
  for (int bit = 1; me + bit < size_ && (me & bit) == 0; bit *= 2) {
    Count(1, bytes);
  }
  return Collective(label,
                    [=, this](ncclComm_t comm, cudaStream_t stream) {
                      return world_->nccl().Broadcast(
                          data, data, bytes, ncclInt8, root, comm, stream);
                    })
      ->Wait();
}

absl::Status Implementation::AllGather(const void* data, int64_t bytes,
                                       void* out, const CommLabel& label) {
  if (bytes == 0) return Health();
  if (size_ == 1) {
    if (data == out) return absl::OkStatus();
    return cuda::ToStatus(
        cuda::CopyAsync(out, bytes, data, bytes, bytes, 1, world_->compute()));
  }
  Count(size_ - 1, bytes * (size_ - 1));
  return Collective(label,
                    [=, this](ncclComm_t comm, cudaStream_t stream) {
                      return world_->nccl().AllGather(data, out, bytes,
                                                      ncclInt8, comm, stream);
                    })
      ->Wait();
}

absl::Status Implementation::AllReduce(double* data, int64_t n,
                                       const CommLabel& label) {
  if (size_ == 1 || n == 0) return Health();
  const auto bytes = n * static_cast<int64_t>(sizeof(double));
  Count(size_ - 1, bytes * (size_ - 1));
  return Collective(label,
                    [=, this](ncclComm_t comm, cudaStream_t stream) {
                      return world_->nccl().AllReduce(
                          data, data, n, ncclFloat64, ncclSum, comm, stream);
                    })
      ->Wait();
}

std::unique_ptr<Transfer> Implementation::ReduceScatter(
    float* data, const std::vector<Part>& parts, const CommLabel& label) {
  int64_t all = 0;
  for (int r = 0; r < size_; ++r) {
    all += parts[r].size();
    if (r != rank_ && parts[r].size() > 0) Count(1, parts[r].size() * 4);
  }
  if (size_ == 1 || all == 0) return FinishedTransfer(Health());
  const NcclLibrary& nccl = world_->nccl();
  if (Uniform(parts)) {
    return Collective(
        label, [=, this, &nccl](ncclComm_t comm, cudaStream_t stream) {
          return nccl.ReduceScatter(data + parts[0].begin,
                                    data + parts[rank_].begin, parts[0].size(),
                                    ncclFloat32, ncclSum, comm, stream);
        });
  }
  return Collective(label, [=, &nccl](ncclComm_t comm, cudaStream_t stream) {
    ncclResult_t first = nccl.GroupStart();
    for (size_t r = 0; r < parts.size(); ++r) {
      if (parts[r].size() == 0) continue;
      float* part = data + parts[r].begin;
      const ncclResult_t result =
          nccl.Reduce(part, part, parts[r].size(), ncclFloat32, ncclSum,
                      static_cast<int>(r), comm, stream);
      if (first == ncclSuccess) first = result;
    }
    const ncclResult_t result = nccl.GroupEnd();
    return first == ncclSuccess || first == ncclInProgress ? result : first;
  });
}

absl::Status Implementation::AllGatherParts(float* data,
                                            const std::vector<Part>& parts,
                                            const CommLabel& label) {
  int64_t all = 0;
  for (const Part& part : parts) all += part.size();
  const Part own = parts[rank_];
  if (own.size() > 0) Count(size_ - 1, own.size() * 4 * (size_ - 1));
  if (size_ == 1 || all == 0) return Health();
  const NcclLibrary& nccl = world_->nccl();
  if (Uniform(parts)) {
    return Collective(label,
                      [=, &nccl](ncclComm_t comm, cudaStream_t stream) {
                        return nccl.AllGather(data + own.begin,
                                              data + parts[0].begin, own.size(),
                                              ncclFloat32, comm, stream);
                      })
        ->Wait();
  }
  return Collective(label,
                    [=, &nccl](ncclComm_t comm, cudaStream_t stream) {
                      ncclResult_t first = nccl.GroupStart();
                      for (size_t r = 0; r < parts.size(); ++r) {
                        if (parts[r].size() == 0) continue;
                        float* part = data + parts[r].begin;
                        const ncclResult_t result = nccl.Broadcast(
                            part, part, parts[r].size(), ncclFloat32,
                            static_cast<int>(r), comm, stream);
                        if (first == ncclSuccess) first = result;
                      }
                      const ncclResult_t result = nccl.GroupEnd();
                      return first == ncclSuccess || first == ncclInProgress
                                 ? result
                                 : first;
                    })
      ->Wait();
}

absl::StatusOr<std::unique_ptr<Communicator>> Implementation::Split(int color,
                                                                    int key) {
  if (absl::Status health = Health(); !health.ok()) return health;
  absl::StatusOr<std::unique_ptr<Communicator>> host = host_.Split(color, key);
  if (!host.ok()) return host.status();
  Communicator& ref = **host;
  auto child = std::make_unique<Implementation>(ref, *std::move(host), world_);
  absl::Status status = child->Connect(/*neighbours=*/true);
  if (!status.ok()) return status;
  return child;
}

}  // namespace

absl::StatusOr<std::unique_ptr<NcclCommunicator>> NcclCommunicator::Create(
    Communicator& host, cuda::Stream compute, NcclOptions options) {
  const NcclLibrary* nccl = nullptr;
  if (host.size() > 1) {
    const absl::StatusOr<const NcclLibrary*> loaded = LoadNccl(options.library);
    // All know at once, rather than wait for one that cannot come.
    std::vector<char> failed(host.size());
    const char mine = loaded.ok() ? 0 : 1;
    absl::Status status =
        host.AllGather(&mine, 1, failed.data(), {"loading NCCL", -1, -1, ""});
    if (!loaded.ok()) return loaded.status();
    if (!status.ok()) return status;
    for (int r = 0; r < host.size(); ++r) {
      if (failed[r] == 0) continue;
      return absl::UnavailableError(absl::StrCat(
          "rank ", r, " could not load NCCL; its own error says why"));
    }
    nccl = *loaded;
  }
  int device = 0;
  absl::Status status =
      cuda::ToStatus(cudaGetDevice(&device), "connecting ranks");
  if (!status.ok()) return status;
  const bool neighbours = options.neighbours;
  auto world =
      std::make_shared<NcclWorld>(nccl, compute, device, std::move(options));
  auto communicator =
      std::make_unique<Implementation>(host, nullptr, std::move(world));
  status = communicator->Connect(neighbours);
  if (!status.ok()) return status;
  return communicator;
}

}  // namespace carry
