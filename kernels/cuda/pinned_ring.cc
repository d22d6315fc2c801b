#include "kernels/cuda/pinned_ring.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace carry::cuda {

PinnedRing::~PinnedRing() {
  for (Slot& slot : slots_) {
    if (slot.used) slot.sent.Wait().IgnoreError();
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

absl::Status PinnedRing::Copy(void* to, const void* host, int64_t bytes,
                              Stream stream) {
  if (slots_.empty()) {
    absl::Status status = MakeSlots();
    if (!status.ok()) return status;
  }
  for (int64_t begin = 0; begin < bytes; begin += kSlotBytes) {
    const int64_t n = std::min(kSlotBytes, bytes - begin);
    Slot& slot = slots_[next_];
    next_ = (next_ + 1) % kSlots;
    if (slot.used) {
      absl::Status status = slot.sent.Wait();
      if (!status.ok()) return status;
    }
    std::memcpy(slot.memory, static_cast<const char*>(host) + begin, n);
    LaunchStatus queued = CopyAsync(static_cast<char*>(to) + begin, n,
                                    slot.memory, n, n, 1, stream);
    if (queued.ok()) queued = slot.sent.Record(stream);
    if (!queued.ok()) return ToStatus(queued);
    slot.used = true;
  }
  return absl::OkStatus();
}

}  // namespace carry::cuda
