// Memory for large arrays on the CPU.
#pragma once

#include <cstdint>

namespace carry {

// Owns `bytes` of zeros, 64-byte aligned. From 1 MB on they begin on a 2 MB
// boundary and lie in huge pages where the system grants them: streams read
// faster when the prefetchers meet no page ends, and stores soon leave the 16
// pages of the first-level store TLB.
class Pages {
 public:
  Pages() = default;
  explicit Pages(int64_t bytes);
  ~Pages();
  Pages(Pages&& other) noexcept;
  Pages& operator=(Pages&& other) noexcept;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  void* mapping_ = nullptr;
  void* data_ = nullptr;
  int64_t bytes_ = 0, mapped_ = 0;
};

}  // namespace carry
