#include "parallel/nccl_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/device_spans.h"

namespace carry {
namespace {

// Far below any timeout, and a few thousand driver calls a minute.
constexpr std::chrono::milliseconds kPollEvery(50);

void Trace(const std::shared_ptr<NcclOperation>& operation) {
  using cuda::DeviceSpans;
  if (!DeviceSpans::Get().enabled()) return;
  const CommLabel& label = operation->label;
  const bool collective = operation->kind == NcclOperation::kCollective;
  SpanInfo info{.category = "message", .name = label.operation};
  info.direction = label.direction;
  info.layer = label.layer;
  info.chunk = label.chunk;
  if (!collective) info.peer = operation->peer;
  DeviceSpans::Get().Add(
      info,
      collective                                ? DeviceSpans::kCollective
      : operation->kind == NcclOperation::kSend ? DeviceSpans::kSend
                                                : DeviceSpans::kReceive,
      std::shared_ptr<const cuda::Event>(operation, &operation->begin),
      std::shared_ptr<const cuda::Event>(operation, &operation->end));
}

}  // namespace

std::string NcclOperation::Who() const {
  const std::string in = absl::StrCat(" in ", label.ToString());
  switch (kind) {
    case kSend:
      return absl::StrCat("rank ", rank, " sending to rank ", peer, in);
    case kReceive:
      return absl::StrCat("rank ", rank, " receiving from rank ", peer, in);
    case kCollective:
      break;
  }
  return absl::StrCat("rank ", rank, " of ", peer, in);
}

NcclWorld::NcclWorld(const NcclLibrary* nccl, cuda::Stream compute, int device,
                     NcclOptions options)
    : nccl_(nccl),
      compute_(compute),
      device_(device),
      options_(std::move(options)),
      timeout_(std::chrono::duration_cast<Clock::duration>(
          std::chrono::duration<double>(options_.timeout_seconds))),
      last_end_(Clock::now()),
      last_poll_(Clock::now()) {
  if (nccl_ == nullptr) return;
  poller_ = std::thread([this] { Poll(); });
  watch_ = std::thread([this] { Watch(); });
}

NcclWorld::~NcclWorld() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (poller_.joinable()) poller_.join();
  if (watch_.joinable()) watch_.join();
}

absl::Status NcclWorld::Health() const {
  if (!is_broken_) return absl::OkStatus();
  const std::lock_guard<std::mutex> lock(mutex_);
  return broken_;
}

void NcclWorld::Break(const absl::Status& error, bool tell) {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (is_broken_) return;
    broken_ = error;
    tell_ = tell;
    is_broken_ = true;
  }
  changed_.notify_all();
}

absl::Status NcclWorld::Cuda(const cuda::LaunchStatus& status,
                             const NcclOperation& op) {
  if (status.ok()) return absl::OkStatus();
  const absl::Status error = cuda::ToStatus(status);
  Break(
      absl::Status(error.code(), absl::StrCat(op.Who(), ": ", error.message())),
      false);
  return Health();
}

absl::Status NcclWorld::Settle(ncclComm_t comm, ncclResult_t result,
                               const NcclOperation& what) {
  const Clock::time_point deadline = Clock::now() + timeout_;
  while (result == ncclInProgress) {
    if (is_broken_) return Health();
    const ncclResult_t asked = nccl_->CommGetAsyncError(comm, &result);
    if (asked != ncclSuccess) result = asked;
    if (result != ncclInProgress) break;
    if (Clock::now() > deadline) {
      Break(absl::DeadlineExceededError(
                absl::StrCat(what.Who(), ": nothing came for ",
                             options_.timeout_seconds, " s")),
            false);
      return Health();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(20));
  }
  if (result == ncclSuccess) return absl::OkStatus();
  Break(absl::InternalError(
            absl::StrCat(what.Who(), ": NCCL: ", nccl_->Explain(result))),
        false);
  return Health();
}

void NcclWorld::EnterCall(const NcclOperation* what) {
  const std::lock_guard<std::mutex> lock(mutex_);
  call_ = what;
  call_since_ = Clock::now();
}

absl::StatusOr<std::shared_ptr<NcclChannel>> NcclWorld::Connect(
    const ncclUniqueId& id, int ranks, int rank, int most_blocks,
    const NcclOperation& what) {
  auto channel = std::make_shared<NcclChannel>();
  if (!channel->stream.status().ok()) return channel->stream.status();
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 1;
  if (most_blocks > 0) config.maxCTAs = most_blocks;
  const std::lock_guard<std::timed_mutex> calls(calls_);
  ncclComm_t comm = nullptr;
  EnterCall(&what);
  const ncclResult_t result =
      nccl_->CommInitRankConfig(&comm, ranks, id, rank, &config);
  absl::Status status = Settle(comm, result, what);
  EnterCall(nullptr);
  if (!status.ok()) {
    if (comm != nullptr) nccl_->CommAbort(comm);
    return status;
  }
  channel->comm = comm;
  const std::lock_guard<std::mutex> lock(mutex_);
  channels_.push_back(channel);
  return channel;
}

void NcclWorld::Disconnect(NcclChannel& channel) {
  std::shared_ptr<NcclOperation> last;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!channel.running.empty()) last = channel.running.back();
  }
  // If that fails the world is broken.
  if (last != nullptr) (void)WaitOnHost(channel, *last);
  {
    NcclOperation leaving;
    leaving.label.operation = "leaving a group of ranks";
    const std::lock_guard<std::timed_mutex> calls(calls_);
    EnterCall(&leaving);
    const ncclComm_t comm = channel.comm.exchange(nullptr);
    // Both may wait for the other ranks.
    if (comm != nullptr && !is_broken_ &&
        Settle(comm, nccl_->CommFinalize(comm), leaving).ok()) {
      nccl_->CommDestroy(comm);
    } else if (comm != nullptr) {
      nccl_->CommAbort(comm);
    }
    EnterCall(nullptr);
  }
  const std::lock_guard<std::mutex> lock(mutex_);
  channels_.erase(
      std::remove_if(channels_.begin(), channels_.end(),
                     [&](const auto& c) { return c.get() == &channel; }),
      channels_.end());
}

absl::Status NcclWorld::MarkReady(NcclOperation& operation) {
  return Cuda(operation.ready.Record(compute_), operation);
}

absl::Status NcclWorld::Issue(NcclChannel& channel,
                              const std::shared_ptr<NcclOperation>& operation,
                              Call call) {
  const cuda::Stream stream = channel.stream.get();
  const std::lock_guard<std::timed_mutex> calls(calls_);
  const ncclComm_t comm = channel.comm;
  if (is_broken_ || comm == nullptr) return Health();
  absl::Status status = Cuda(operation->ready.MakeWait(stream), *operation);
  if (status.ok()) status = Cuda(operation->begin.Record(stream), *operation);
  if (status.ok()) {
    EnterCall(operation.get());
    status = Settle(comm, call(comm, stream), *operation);
    EnterCall(nullptr);
  }
  if (status.ok()) status = Cuda(operation->end.Record(stream), *operation);
  if (!status.ok()) return status;
  Trace(operation);
  const std::lock_guard<std::mutex> lock(mutex_);
  operation->issued = Clock::now();
  channel.running.push_back(operation);
  return absl::OkStatus();
}

absl::Status NcclWorld::MakeComputeWait(const NcclOperation& operation) {
  if (is_broken_) return Health();
  return Cuda(operation.end.MakeWait(compute_), operation);
}

absl::Status NcclWorld::WaitOnHost(NcclChannel& channel,
                                   const NcclOperation& operation) {
  while (!is_broken_) {
    const absl::StatusOr<bool> passed = operation.end.Passed();
    if (!passed.ok()) Break(passed.status(), false);
    if (passed.ok() && *passed) {
      const std::lock_guard<std::mutex> lock(mutex_);
      RemoveUpTo(channel, operation);
      return absl::OkStatus();
    }
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
  return Health();
}

void NcclWorld::RemoveUpTo(NcclChannel& channel,
                           const NcclOperation& operation) {
  auto& running = channel.running;
  const auto at = std::find_if(
      running.begin(), running.end(),
      [&](const auto& other) { return other.get() == &operation; });
  if (at == running.end()) return;
  running.erase(running.begin(), at + 1);
  last_end_ = Clock::now();
}

void NcclWorld::PollChannel(NcclChannel& channel) {
  for (;;) {
    std::shared_ptr<NcclOperation> head;
    bool has_begun;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (channel.running.empty()) break;
      head = channel.running.front();
      has_begun = head->has_begun;
    }
    // Without the lock: the driver may hang.
    const absl::StatusOr<bool> passed =
        has_begun ? head->end.Passed() : head->begin.Passed();
    if (!passed.ok()) {
      return Break(absl::Status(passed.status().code(),
                                absl::StrCat(head->Who(), ": ",
                                             passed.status().message())),
                   true);
    }
    if (!*passed) break;
    const std::lock_guard<std::mutex> lock(mutex_);
    if (has_begun) {
      RemoveUpTo(channel, *head);
    } else {
      head->has_begun = true;
      head->begun = Clock::now();
    }
  }
  // Somebody in a call sees its errors.
  const std::unique_lock<std::timed_mutex> calls(calls_, std::try_to_lock);
  const ncclComm_t comm = channel.comm;
  if (!calls.owns_lock() || comm == nullptr || is_broken_) return;
  ncclResult_t result = ncclSuccess;
  if (nccl_->CommGetAsyncError(comm, &result) != ncclSuccess) return;
  if (result == ncclSuccess || result == ncclInProgress) return;
  std::string who = "between ranks";
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!channel.running.empty()) who = channel.running.front()->Who();
  }
  Break(absl::InternalError(
            absl::StrCat(who, ": NCCL: ", nccl_->Explain(result))),
        true);
}

void NcclWorld::AbortAll() {
  // Who holds it may be stuck in a call, which this ends.
  const std::unique_lock<std::timed_mutex> calls(calls_,
                                                 std::chrono::seconds(1));
  std::vector<std::shared_ptr<NcclChannel>> channels;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    channels = channels_;
  }
  for (const auto& channel : channels) {
    const ncclComm_t comm = channel->comm.exchange(nullptr);
    if (comm != nullptr) nccl_->CommAbort(comm);
  }
}

void NcclWorld::Poll() {
  const absl::StatusOr<cuda::DeviceProperties> device =
      cuda::UseDevice(device_);
  if (!device.ok()) Break(device.status(), true);
  while (!is_broken_) {
    std::vector<std::shared_ptr<NcclChannel>> channels;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (stop_) return;
      changed_.wait_for(lock, kPollEvery);
      if (stop_) return;
      channels = channels_;
    }
    for (const auto& channel : channels) {
      if (!is_broken_) PollChannel(*channel);
    }
    const std::lock_guard<std::mutex> lock(mutex_);
    last_poll_ = Clock::now();
  }
  AbortAll();
}

const NcclOperation* NcclWorld::Overdue(bool blind) const {
  const Clock::time_point now = Clock::now();
  if (call_ != nullptr && now - call_since_ > timeout_) return call_;
  const NcclOperation* oldest = nullptr;
  Clock::time_point since = now - timeout_;
  if (last_end_ > since) return nullptr;
  for (const auto& channel : channels_) {
    if (channel->running.empty()) continue;
    const auto& head = channel->running.front();
    if (!head->has_begun && !blind) continue;
    const Clock::time_point begun =
        head->has_begun ? head->begun : head->issued;
    if (begun < since) {
      since = begun;
      oldest = head.get();
    }
  }
  return oldest;
}

void NcclWorld::Watch() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_ && !is_broken_) {
    changed_.wait_for(lock, kPollEvery);
    if (stop_ || is_broken_) break;
    // No word from the driver for as long: then what was put in is all we know.
    const bool blind = Clock::now() - last_poll_ > timeout_;
    const NcclOperation* overdue = Overdue(blind);
    if (overdue == nullptr) continue;
    broken_ = absl::DeadlineExceededError(absl::StrCat(
        overdue->Who(), ": nothing came for ", options_.timeout_seconds, " s",
        blind ? "; nor did the CUDA driver answer, so it may be a later one"
              : ""));
    tell_ = true;
    is_broken_ = true;
    changed_.notify_all();
  }
  if (!is_broken_ || !tell_ || !options_.on_failure) return;
  const absl::Status error = broken_;
  lock.unlock();
  options_.on_failure(error);
}

}  // namespace carry
