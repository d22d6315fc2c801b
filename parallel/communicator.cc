#include "parallel/communicator.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

// Tags of the collectives, above those of callers.
enum CollectiveTag {
  kBarrierTag = Communicator::kMaxTag,
  kBroadcastTag,
  kAllGatherTag,
  kReduceScatterTag,
  kAllGatherPartsTag,
};

absl::Status WaitAll(std::vector<std::unique_ptr<Transfer>>& transfers) {
  absl::Status status;
  for (auto& transfer : transfers) {
    absl::Status one = transfer->Wait();
    if (status.ok()) status = std::move(one);
  }
  return status;
}

// Direct exchange: every rank sends each owner its part and adds up what it
// gets, in rank order.
class DirectReduceScatter : public Transfer {
 public:
  DirectReduceScatter(Communicator& comm, float* data,
                      const std::vector<Part>& parts, const CommLabel& label)
      : data_(data), own_(parts[comm.rank()]), rank_(comm.rank()) {
    const int size = comm.size();
    received_.resize(size);
    for (int step = 1; step < size; ++step) {
      const int from = (rank_ + size - step) % size;
      received_[from].resize(own_.size());
      if (own_.size() > 0) {
        receives_.push_back(comm.Receive(received_[from].data(),
                                         own_.size() * sizeof(float), from,
                                         kReduceScatterTag, label));
      }
    }
    for (int step = 1; step < size; ++step) {
      const int to = (rank_ + step) % size;
      if (parts[to].size() > 0) {
        sends_.push_back(comm.Send(data + parts[to].begin,
                                   parts[to].size() * sizeof(float), to,
                                   kReduceScatterTag, label));
      }
    }
  }

  bool Done() override {
    bool done = true;
    for (auto* list : {&receives_, &sends_}) {
      for (auto& transfer : *list) done = transfer->Done() && done;
    }
    return done;
  }

  absl::Status Wait() override {
    absl::Status status = WaitAll(receives_);
    absl::Status sent = WaitAll(sends_);
    if (!status.ok()) return status;
    if (!sent.ok()) return sent;
    float* own = data_ + own_.begin;
    const int64_t n = own_.size();
    // Rank order, wherever this rank is in it.
    std::vector<float> sum;
    for (size_t r = 0; r < received_.size(); ++r) {
      const float* x = static_cast<int>(r) == rank_ ? own : received_[r].data();
      if (r == 0) {
        sum.assign(x, x + n);
      } else {
        for (int64_t i = 0; i < n; ++i) sum[i] += x[i];
      }
    }
    std::copy(sum.begin(), sum.end(), own);
    received_.clear();
    return absl::OkStatus();
  }

 private:
  float* data_;
  Part own_;
  int rank_;
  std::vector<std::vector<float>> received_;
  std::vector<std::unique_ptr<Transfer>> receives_, sends_;
};

}  // namespace

std::string CommLabel::ToString() const {
  std::string text = operation;
  if (layer >= 0) absl::StrAppend(&text, ", layer ", layer);
  if (chunk >= 0) absl::StrAppend(&text, ", chunk ", chunk);
  if (direction[0] != '\0') absl::StrAppend(&text, ", ", direction);
  return text;
}

absl::Status Communicator::Barrier(const CommLabel& label) {
  // Dissemination: after round k everybody has heard of 2^(k+1) ranks.
  for (int distance = 1; distance < size(); distance *= 2) {
    char out = 0, in = 0;
    const int to = (rank() + distance) % size();
    const int from = (rank() + size() - distance % size()) % size();
    std::vector<std::unique_ptr<Transfer>> both;
    both.push_back(Receive(&in, 1, from, kBarrierTag, label));
    both.push_back(Send(&out, 1, to, kBarrierTag, label));
    absl::Status status = WaitAll(both);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Communicator::Broadcast(void* data, int64_t bytes, int root,
                                     const CommLabel& label) {
  // A binomial tree over ranks counted from the root.
  if (bytes == 0) return absl::OkStatus();
  const int me = (rank() + size() - root) % size();
  int bit = 1;
  for (; bit < size(); bit *= 2) {
    if ((me & bit) == 0) continue;
    absl::Status status =
        Receive(data, bytes, (me - bit + root) % size(), kBroadcastTag, label)
            ->Wait();
    if (!status.ok()) return status;
    break;
  }
  std::vector<std::unique_ptr<Transfer>> sends;
  for (bit /= 2; bit > 0; bit /= 2) {
    if (me + bit < size()) {
      sends.push_back(
          Send(data, bytes, (me + bit + root) % size(), kBroadcastTag, label));
    }
  }
  return WaitAll(sends);
}

absl::Status Communicator::AllGather(const void* data, int64_t bytes, void* out,
                                     const CommLabel& label) {
  char* slots = static_cast<char*>(out);
  if (bytes == 0) return absl::OkStatus();
  std::memmove(slots + rank() * bytes, data, bytes);
  // A ring: in each step everybody passes on what it got last.
  const int to = (rank() + 1) % size();
  const int from = (rank() + size() - 1) % size();
  for (int step = 0; step + 1 < size(); ++step) {
    const int send_slot = (rank() + size() - step) % size();
    const int receive_slot = (from + size() - step) % size();
    std::vector<std::unique_ptr<Transfer>> both;
    both.push_back(Receive(slots + receive_slot * bytes, bytes, from,
                           kAllGatherTag, label));
    both.push_back(
        Send(slots + send_slot * bytes, bytes, to, kAllGatherTag, label));
    absl::Status status = WaitAll(both);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Communicator::AllReduce(double* data, int64_t n,
                                     const CommLabel& label) {
  std::vector<double> all(n * size());
  absl::Status status = AllGather(
      data, n * static_cast<int64_t>(sizeof(double)), all.data(), label);
  if (!status.ok()) return status;
  for (int64_t i = 0; i < n; ++i) {
    double sum = all[i];
    for (int r = 1; r < size(); ++r) sum += all[r * n + i];
    data[i] = sum;
  }
  return absl::OkStatus();
}

std::unique_ptr<Transfer> Communicator::ReduceScatter(
    float* data, const std::vector<Part>& parts, const CommLabel& label) {
  return std::make_unique<DirectReduceScatter>(*this, data, parts, label);
}

absl::Status Communicator::AllGatherParts(float* data,
                                          const std::vector<Part>& parts,
                                          const CommLabel& label) {
  const Part own = parts[rank()];
  std::vector<std::unique_ptr<Transfer>> all;
  for (int step = 1; step < size(); ++step) {
    const int from = (rank() + size() - step) % size();
    if (parts[from].size() == 0) continue;
    all.push_back(Receive(data + parts[from].begin,
                          parts[from].size() * sizeof(float), from,
                          kAllGatherPartsTag, label));
  }
  for (int step = 1; step < size(); ++step) {
    if (own.size() == 0) break;
    all.push_back(Send(data + own.begin, own.size() * sizeof(float),
                       (rank() + step) % size(), kAllGatherPartsTag, label));
  }
  return WaitAll(all);
}

}  // namespace carry
