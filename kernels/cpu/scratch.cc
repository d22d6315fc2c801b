#include "kernels/cpu/scratch.h"

#include <algorithm>

#include "hwy/aligned_allocator.h"
#include "kernels/check.h"

namespace carry {
namespace {

struct Block {
  hwy::AlignedFreeUniquePtr<float[]> memory;
  int64_t size = 0;
};

thread_local Block blocks[2];

}  // namespace

Scratch::Scratch(ScratchSlot slot, int64_t floats) {
  Block& block = blocks[static_cast<int>(slot)];
  if (block.size < floats) {
    const int64_t size = std::max(floats, block.size + block.size / 2);
    block.memory.reset();
    block.memory = hwy::AllocateAligned<float>(size);
    CARRY_CHECK(block.memory != nullptr);
    block.size = size;
  }
  next_ = block.memory.get();
  end_ = next_ + block.size;
}

float* Scratch::Take(int64_t n) {
  float* result = next_;
  next_ += Rounded(n);
  CARRY_CHECK(next_ <= end_);
  return result;
}

}  // namespace carry
