#include "parallel/thread_communicator.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace carry {
namespace {

// What the ranks of one communicator share.
class Hub {
 public:
  Hub(int size, double timeout_seconds)
      : size_(size), timeout_seconds_(timeout_seconds) {}

  int size() const { return size_; }

  void Put(int from, int to, int tag, const void* data, int64_t bytes) {
    const char* begin = static_cast<const char*>(data);
    std::lock_guard<std::mutex> lock(mutex_);
    mail_[{from, to, tag}].emplace_back(begin, begin + bytes);
    changed_.notify_all();
  }

  absl::Status Take(int from, int to, int tag, void* data, int64_t bytes,
                    const CommLabel& label) {
    std::unique_lock<std::mutex> lock(mutex_);
    auto& queue = mail_[{from, to, tag}];
    const bool arrived =
        changed_.wait_for(lock, std::chrono::duration<double>(timeout_seconds_),
                          [&] { return !queue.empty() || !broken_.ok(); });
    if (!broken_.ok()) return broken_;
    if (!arrived) {
      broken_ = absl::DeadlineExceededError(
          absl::StrCat("rank ", to, " waited ", timeout_seconds_,
                       " s for rank ", from, " in ", label.ToString()));
      changed_.notify_all();
      return broken_;
    }
    const std::vector<char> message = std::move(queue.front());
    queue.pop_front();
    if (static_cast<int64_t>(message.size()) != bytes) {
      broken_ = absl::InternalError(absl::StrCat(
          "rank ", to, " got ", message.size(), " bytes from rank ", from,
          " where ", bytes, " were due, in ", label.ToString()));
      changed_.notify_all();
      return broken_;
    }
    std::memcpy(data, message.data(), bytes);
    return absl::OkStatus();
  }

  bool Arrived(int from, int to, int tag) {
    std::lock_guard<std::mutex> lock(mutex_);
    return !mail_[{from, to, tag}].empty() || !broken_.ok();
  }

  absl::Status broken() {
    std::lock_guard<std::mutex> lock(mutex_);
    return broken_;
  }

  // The hub of the `n`-th split's color; the first to ask makes it.
  std::shared_ptr<Hub> Child(int n, int color, int size) {
    std::lock_guard<std::mutex> lock(mutex_);
    std::shared_ptr<Hub>& child = children_[{n, color}];
    if (child == nullptr) child = std::make_shared<Hub>(size, timeout_seconds_);
    return child;
  }

 private:
  const int size_;
  const double timeout_seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::tuple<int, int, int>, std::deque<std::vector<char>>> mail_;
  std::map<std::pair<int, int>, std::shared_ptr<Hub>> children_;
  absl::Status broken_;
};

class Sent : public Transfer {
 public:
  explicit Sent(absl::Status status) : status_(std::move(status)) {}
  absl::Status Wait() override { return status_; }
  bool Done() override { return true; }

 private:
  absl::Status status_;
};

class Receiving : public Transfer {
 public:
  Receiving(std::shared_ptr<Hub> hub, int from, int to, int tag, void* data,
            int64_t bytes, const CommLabel& label)
      : hub_(std::move(hub)),
        from_(from),
        to_(to),
        tag_(tag),
        data_(data),
        bytes_(bytes),
        label_(label) {}
  bool Done() override { return hub_->Arrived(from_, to_, tag_); }
  absl::Status Wait() override {
    return hub_->Take(from_, to_, tag_, data_, bytes_, label_);
  }

 private:
  std::shared_ptr<Hub> hub_;
  int from_, to_, tag_;
  void* data_;
  int64_t bytes_;
  CommLabel label_;
};

class ThreadCommunicator : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<Hub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank) {}

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  CommCounters counters() const override { return counters_; }

  // The message is copied at once, so a send is done when it is made.
  std::unique_ptr<Transfer> Send(const void* data, int64_t bytes, int to,
                                 int tag, const CommLabel&) override {
    CARRY_CHECK(to >= 0 && to < size() && to != rank_);
    absl::Status status = hub_->broken();
    if (status.ok()) hub_->Put(rank_, to, tag, data, bytes);
    ++counters_.messages;
    counters_.bytes += bytes;
    return std::make_unique<Sent>(std::move(status));
  }
  std::unique_ptr<Transfer> Receive(void* data, int64_t bytes, int from,
                                    int tag, const CommLabel& label) override {
    CARRY_CHECK(from >= 0 && from < size() && from != rank_);
    return std::make_unique<Receiving>(hub_, from, rank_, tag, data, bytes,
                                       label);
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                      int key) override {
    const int mine[3] = {color, key, rank_};
    std::vector<int> all(3 * size());
    absl::Status status =
        AllGather(mine, sizeof(mine), all.data(), {"split", -1, -1, ""});
    if (!status.ok()) return status;
    std::vector<std::pair<int, int>> group;  // (key, rank)
    for (int r = 0; r < size(); ++r) {
      if (all[3 * r] == color) group.emplace_back(all[3 * r + 1], r);
    }
    std::sort(group.begin(), group.end());
    const auto me =
        std::find(group.begin(), group.end(), std::make_pair(key, rank_));
    return std::make_unique<ThreadCommunicator>(
        hub_->Child(splits_++, color, static_cast<int>(group.size())),
        static_cast<int>(me - group.begin()));
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  int splits_ = 0;
  CommCounters counters_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds) {
  auto hub = std::make_shared<Hub>(size, timeout_seconds);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < size; ++r) {
    ranks.push_back(std::make_unique<ThreadCommunicator>(hub, r));
  }
  return ranks;
}

}  // namespace carry
