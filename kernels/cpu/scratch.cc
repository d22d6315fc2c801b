#include "kernels/cpu/scratch.h"

#include <sys/mman.h>

#include <algorithm>

#include "kernels/check.h"

namespace carry {
namespace {

constexpr int64_t kHugePage = 2 << 20;

// Huge pages where the system grants them: a kernel's stores go to more small
// pages than the 16 that the first-level store TLB holds.
class Block {
 public:
  ~Block() { Free(); }

  float* Floats(int64_t floats) {
    const int64_t bytes = floats * static_cast<int64_t>(sizeof(float));
    if (bytes > bytes_) Grow(std::max(bytes, bytes_ + bytes_ / 2));
    return data_;
  }

 private:
  void Free() {
    if (mapping_ != nullptr) munmap(mapping_, bytes_ + kHugePage);
  }

  void Grow(int64_t bytes) {
    Free();
    bytes_ = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    mapping_ = mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CARRY_CHECK(mapping_ != MAP_FAILED);
    const auto at = reinterpret_cast<uintptr_t>(mapping_);
    const uintptr_t aligned = (at + kHugePage - 1) / kHugePage * kHugePage;
    data_ = reinterpret_cast<float*>(aligned);
    madvise(data_, bytes_, MADV_HUGEPAGE);  // A wish: failing is no error.
  }

  void* mapping_ = nullptr;
  float* data_ = nullptr;
  int64_t bytes_ = 0;
};

thread_local Block blocks[2];

}  // namespace

Scratch::Scratch(ScratchSlot slot, int64_t floats) {
  next_ = blocks[static_cast<int>(slot)].Floats(floats);
  end_ = next_ + floats;
}

float* Scratch::Take(int64_t n) {
  float* result = next_;
  next_ += Rounded(n);
  CARRY_CHECK(next_ <= end_);
  return result;
}

}  // namespace carry
