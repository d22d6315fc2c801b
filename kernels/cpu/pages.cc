#include "kernels/cpu/pages.h"

#include <sys/mman.h>

#include <utility>

#include "kernels/check.h"

namespace carry {
namespace {

constexpr int64_t kHugePage = 2 << 20;
constexpr int64_t kLarge = 1 << 20;

}  // namespace

Pages::Pages(int64_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  const bool huge = bytes >= kLarge;
  mapped_ = huge ? (bytes + 2 * kHugePage - 1) / kHugePage * kHugePage : bytes;
  mapping_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CARRY_CHECK(mapping_ != MAP_FAILED);
  data_ = mapping_;
  if (!huge) return;
  const auto at = reinterpret_cast<uintptr_t>(mapping_);
  data_ = reinterpret_cast<void*>((at + kHugePage - 1) / kHugePage * kHugePage);
  // All of it, so that the last page can be huge too. A wish: that it fails is
  // no error.
  const char* end = static_cast<const char*>(mapping_) + mapped_;
  madvise(data_, end - static_cast<const char*>(data_), MADV_HUGEPAGE);
}

Pages::~Pages() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_);
}

Pages::Pages(Pages&& other) noexcept { *this = std::move(other); }

Pages& Pages::operator=(Pages&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

}  // namespace carry
