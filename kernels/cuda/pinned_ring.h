// Host memory that the device reads by itself, for what goes to it: a copy from
// there needs no wait, and the caller's memory is free at once.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/cuda/runtime.h"

namespace carry::cuda {

class PinnedRing {
 public:
  PinnedRing() = default;
  ~PinnedRing();
  PinnedRing(const PinnedRing&) = delete;
  PinnedRing& operator=(const PinnedRing&) = delete;

  // Copies `bytes` of `host` to the device, in order with `stream`. Waits only
  // where all slots are on their way.
  absl::Status Copy(void* to, const void* host, int64_t bytes, Stream stream);

 private:
  static constexpr int64_t kSlotBytes = int64_t{4} << 20;
  static constexpr int kSlots = 4;
  struct Slot {
    void* memory;
    Event sent;        // its latest copy
    int64_t used = 0;  // bytes, since it was last waited for
  };
  absl::Status MakeSlots();
  // A slot with room: this one or, once its copies are through, the next.
  absl::Status MakeRoom();

  std::vector<Slot> slots_;
  size_t current_ = 0;
};

}  // namespace carry::cuda
