#include "kernels/cpu/scratch.h"

#include <algorithm>

#include "kernels/check.h"
#include "kernels/cpu/pages.h"

namespace carry {
namespace {

thread_local Pages slots[2];

}  // namespace

Scratch::Scratch(ScratchSlot slot, int64_t floats) {
  Pages& pages = slots[static_cast<int>(slot)];
  const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
  if (bytes > pages.bytes()) {
    // At least a huge page, so that the first kernels do not grow it in turn.
    constexpr int64_t kLeast = 2 << 20;
    const int64_t wanted = std::max({bytes, pages.bytes() * 3 / 2, kLeast});
    pages = Pages();
    pages = Pages(wanted);
  }
  next_ = static_cast<float*>(pages.data());
  end_ = next_ + floats;
}

float* Scratch::Take(int64_t n) {
  float* result = next_;
  next_ += Rounded(n);
  CARRY_CHECK(next_ <= end_);
  return result;
}

}  // namespace carry
