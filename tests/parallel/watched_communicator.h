// A communicator that shows every message to a test, which may harm it: lose
// it, change what arrives, or end its own process.
#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "parallel/communicator.h"

namespace carry {

struct MessageWatcher {
  // Before a message of this rank leaves; false: it never does.
  std::function<bool(const CommLabel&, int to)> sending =
      [](const CommLabel&, int) { return true; };
  // A message that has arrived, before anybody reads it.
  std::function<void(const CommLabel&, int from, void* data, int64_t bytes)>
      received = [](const CommLabel&, int, void*, int64_t) {};
};

// Also wraps what Split makes. Collectives are those of Communicator, made of
// messages that the watcher sees.
class WatchedCommunicator : public Communicator {
 public:
  WatchedCommunicator(std::unique_ptr<Communicator> inner,
                      std::shared_ptr<MessageWatcher> watcher)
      : inner_(std::move(inner)), watcher_(std::move(watcher)) {}

  int rank() const override { return inner_->rank(); }
  int size() const override { return inner_->size(); }
  CommCounters counters() const override { return inner_->counters(); }

  std::unique_ptr<Transfer> Send(const void* data, int64_t bytes, int to,
                                 int tag, const CommLabel& label) override {
    if (!watcher_->sending(label, to)) return std::make_unique<Lost>();
    return inner_->Send(data, bytes, to, tag, label);
  }
  std::unique_ptr<Transfer> Receive(void* data, int64_t bytes, int from,
                                    int tag, const CommLabel& label) override {
    return std::make_unique<Receiving>(
        inner_->Receive(data, bytes, from, tag, label),
        [=, watcher = watcher_] {
          watcher->received(label, from, data, bytes);
        });
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                      int key) override {
    absl::StatusOr<std::unique_ptr<Communicator>> part =
        inner_->Split(color, key);
    if (!part.ok()) return part.status();
    return std::make_unique<WatchedCommunicator>(*std::move(part), watcher_);
  }

 private:
  struct Lost : Transfer {
    absl::Status Wait() override { return absl::OkStatus(); }
    bool Done() override { return true; }
  };
  class Receiving : public Transfer {
   public:
    Receiving(std::unique_ptr<Transfer> inner, std::function<void()> arrived)
        : inner_(std::move(inner)), arrived_(std::move(arrived)) {}
    bool Done() override { return inner_->Done(); }
    absl::Status Wait() override {
      absl::Status status = inner_->Wait();
      if (status.ok() && arrived_) std::exchange(arrived_, nullptr)();
      return status;
    }

   private:
    std::unique_ptr<Transfer> inner_;
    std::function<void()> arrived_;
  };

  std::unique_ptr<Communicator> inner_;
  std::shared_ptr<MessageWatcher> watcher_;
};

}  // namespace carry
