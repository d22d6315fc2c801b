#include "kernels/cuda/pinned_ring.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace carry::cuda {

PinnedRing::~PinnedRing() {
  for (Slot& slot : slots_) {
    if (slot.used > 0) slot.sent.Wait().IgnoreError();
    FreePinned(slot.memory);
  }
}

absl::Status PinnedRing::MakeSlots() {
  for (int i = 0; i < kSlots; ++i) {
    Slot slot{MallocPinned(kSlotBytes), Event()};
    if (slot.memory == nullptr) {
      return absl::ResourceExhaustedError(
          "no pinned host memory for copies to the GPU (4 blocks of 4 MiB); "
          "leave the machine, or the container, more memory");
    }
    slots_.push_back(std::move(slot));
  }
  return absl::OkStatus();
}

absl::Status PinnedRing::MakeRoom() {
  if (slots_.empty()) {
    absl::Status status = MakeSlots();
    if (!status.ok()) return status;
  }
  if (slots_[current_].used < kSlotBytes) return absl::OkStatus();
  current_ = (current_ + 1) % slots_.size();
  Slot& slot = slots_[current_];
  if (slot.used > 0) {
    absl::Status status = slot.sent.Wait();
    if (!status.ok()) return status;
  }
  slot.used = 0;
  return absl::OkStatus();
}

absl::Status PinnedRing::Copy(void* to, const void* host, int64_t bytes,
                              Stream stream) {
  constexpr int64_t kAlign = 64;
  for (int64_t begin = 0; begin < bytes;) {
    absl::Status status = MakeRoom();
    if (!status.ok()) return status;
    Slot& slot = slots_[current_];
    const int64_t n = std::min(kSlotBytes - slot.used, bytes - begin);
    char* memory = static_cast<char*>(slot.memory) + slot.used;
    std::memcpy(memory, static_cast<const char*>(host) + begin, n);
    LaunchStatus queued =
        CopyAsync(static_cast<char*>(to) + begin, n, memory, n, n, 1, stream);
    if (queued.ok()) queued = slot.sent.Record(stream);
    if (!queued.ok()) return ToStatus(queued);
    slot.used += (n + kAlign - 1) / kAlign * kAlign;
    begin += n;
  }
  return absl::OkStatus();
}

}  // namespace carry::cuda
