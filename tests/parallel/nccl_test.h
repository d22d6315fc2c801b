// What the cases (nccl_test.cc) and faults (nccl_test_main.cc) of ranks on GPUs
// share: one communicator a process, and arrays in device memory. No kernels:
// data is made, moved and checked with copies, so that what is tested are
// messages and their order with the compute stream.
#pragma once

#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/check.h"
#include "kernels/cuda/runtime.h"
#include "parallel/nccl_communicator.h"

namespace carry {

inline constexpr CommLabel kLabel = {"test", 3, 17, ""};
inline constexpr CommLabel kForward = {"carry", 3, 17, "forward"};
inline constexpr CommLabel kBackward = {"carry", 3, 17, "backward"};

inline std::unique_ptr<Communicator> g_host;
inline std::unique_ptr<cuda::OwnedStream> g_compute;
inline std::unique_ptr<NcclCommunicator> g_comm;

// Elements in device memory, written and read in the compute stream.
template <typename T>
class Array {
 public:
  explicit Array(int64_t n)
      : n_(n), data_(static_cast<T*>(cuda::MallocDevice(n * sizeof(T) + 1))) {
    CARRY_CHECK(data_ != nullptr);
  }
  explicit Array(const std::vector<T>& values)
      : Array(static_cast<int64_t>(values.size())) {
    Set(0, values);
  }
  ~Array() {
    CARRY_CHECK(cuda::Synchronize(g_compute->get(), "test").ok());
    cuda::FreeDevice(data_);
  }
  Array(const Array&) = delete;

  T* data() { return data_; }
  int64_t bytes() const { return n_ * static_cast<int64_t>(sizeof(T)); }
  void Set(int64_t at, const std::vector<T>& values) {
    Copy(data_ + at, values.data(), static_cast<int64_t>(values.size()));
  }
  void Set(int64_t at, T value) { Set(at, std::vector<T>{value}); }
  void Take(Array& from) { Copy(data_, from.data_, n_); }
  void Take(const T* from, int64_t n) { Copy(data_, from, n); }
  std::vector<T> Get() {
    std::vector<T> values(n_);
    Copy(values.data(), data_, n_);
    EXPECT_TRUE(cuda::Synchronize(g_compute->get(), "test").ok());
    return values;
  }

 private:
  static void Copy(T* to, const T* from, int64_t n) {
    const auto bytes = n * static_cast<int64_t>(sizeof(T));
    CARRY_CHECK(
        cuda::CopyAsync(to, bytes, from, bytes, bytes, 1, g_compute->get())
            .ok());
  }
  int64_t n_;
  T* data_;
};

inline std::vector<float> Values(int64_t n, int rank) {
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 97 + 3 * rank);
  return x;
}

}  // namespace carry
