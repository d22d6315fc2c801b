// Host arrays of a test, mirrored in a CUDA device's memory: on the shim, in
// blocks of exactly their size, so that the address sanitizer sees a kernel
// that leaves one.
#pragma once

#include <cuda_runtime.h>

#include <functional>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/types.h"

namespace carry::testing {

// Runs `body` once in every order in which the backend can run threads.
void ForEachOrder(const std::function<void()>& body);

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    for (const Block& b : blocks_) EXPECT_EQ(cudaFree(b.device), cudaSuccess);
  }

  // Device copies; nullptr stays nullptr. What is InOut comes back in Finish.
  template <class T>
  const T* In(const T* host, int64_t n) {
    return Mirror(const_cast<T*>(host), n, false);
  }
  template <class T>
  T* InOut(T* host, int64_t n) {
    return Mirror(host, n, true);
  }
  template <class T>
  const T* In(const std::vector<T>& v) {
    return v.empty() ? nullptr : In(v.data(), v.size());
  }
  template <class T>
  T* InOut(std::vector<T>* v) {
    return v->empty() ? nullptr : InOut(v->data(), v->size());
  }
  ConstMatView In(ConstMatView v) {
    v.data = In(static_cast<const char*>(v.data), Bytes(v));
    return v;
  }
  MatView InOut(MatView v) {
    v.data = InOut(static_cast<char*>(v.data), Bytes(v));
    return v;
  }
  // n elements that hold NaN.
  template <class T>
  T* Scratch(int64_t n) {
    if (n == 0) return nullptr;
    std::vector<T> nans(n);
    std::memset(static_cast<void*>(nans.data()), 0xff, n * sizeof(T));
    return Mirror(nans.data(), n, false);
  }

  // Waits for the device and copies back.
  void Finish() {
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (const Block& b : blocks_) {
      if (!b.back) continue;
      ASSERT_EQ(cudaMemcpy(b.host, b.device, b.bytes, cudaMemcpyDeviceToHost),
                cudaSuccess);
    }
  }

 private:
  struct Block {
    void* host;
    void* device;
    size_t bytes;
    bool back;
  };

  static int64_t Bytes(const ConstMatView& v) {
    return ((v.rows - 1) * v.stride + v.cols) * SizeOf(v.dtype);
  }

  template <class T>
  T* Mirror(T* host, int64_t n, bool back) {
    if (host == nullptr) return nullptr;
    void* device = nullptr;
    EXPECT_EQ(cudaMalloc(&device, n * sizeof(T)), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(device, host, n * sizeof(T), cudaMemcpyHostToDevice),
              cudaSuccess);
    blocks_.push_back({host, device, n * sizeof(T), back});
    return static_cast<T*>(device);
  }

  std::vector<Block> blocks_;
};

}  // namespace carry::testing
