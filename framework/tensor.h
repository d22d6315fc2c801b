// A tensor: counted storage, a dtype and a shape. Copies share the storage.
//
// Row-major. The last dimension may be a column range of a wider matrix, in
// which case stride() > dim(-1); leading dimensions are always dense in rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "framework/device.h"
#include "framework/memory.h"
#include "kernels/check.h"
#include "kernels/types.h"

namespace carry {

using Shape = std::vector<int64_t>;

class Tensor {
 public:
  Tensor() = default;  // empty: defined() is false

  // Uninitialised.
  static Tensor Empty(Shape shape, DType dtype,
                      MemoryPart part = MemoryPart::kActivations,
                      Device device = DefaultDevice());
  static Tensor Zeros(Shape shape, DType dtype,
                      MemoryPart part = MemoryPart::kActivations);
  // A copy of host memory on the default device; `host` may change afterwards.
  static Tensor FromHost(const void* host, Shape shape, DType dtype,
                         MemoryPart part);

  bool defined() const { return storage_ != nullptr; }
  Device device() const { return device_; }
  // Of the device that it is on.
  Backend& backend() const { return BackendOf(device_); }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  int64_t rank() const { return static_cast<int64_t>(shape_.size()); }
  // dim(-1) is the last.
  int64_t dim(int64_t i) const {
    return shape_[i < 0 ? shape_.size() + i : static_cast<size_t>(i)];
  }
  int64_t size() const { return size_; }
  int64_t bytes() const { return size_ * SizeOf(dtype_); }
  int64_t cols() const { return shape_.empty() ? 1 : shape_.back(); }
  int64_t rows() const { return cols() == 0 ? 0 : size_ / cols(); }
  int64_t stride() const { return stride_; }
  bool contiguous() const { return stride_ == cols(); }

  void* data() const { return data_; }
  template <typename T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  float* f32() const {
    CARRY_CHECK(dtype_ == DType::kF32);
    return as<float>();
  }
  MatView view() const { return {data_, dtype_, rows(), cols(), stride_}; }

  // Columns [begin, begin + count) of the last dimension; shares storage.
  Tensor Columns(int64_t begin, int64_t count) const;
  // Rows [begin, begin + count) of the matrix [rows(), cols()]; shares.
  Tensor Rows(int64_t begin, int64_t count) const;
  // `count` elements from `begin` in a new shape. REQUIRES contiguous().
  Tensor Slice(int64_t begin, Shape shape) const;
  Tensor Reshape(Shape shape) const { return Slice(0, std::move(shape)); }

  void Zero() const;
  // A dense copy.
  Tensor Clone(MemoryPart part = MemoryPart::kActivations) const;
  // this = other, elements in order. Same shape and dtype, one device.
  void CopyFrom(const Tensor& other) const;
  // In host memory: this tensor itself if it is there, or a dense copy, for
  // which it waits. Fails with the first error of the device's work.
  absl::StatusOr<Tensor> ToHost() const;
  // this += other. Same size, both dense; this is fp32, other fp32 or bf16.
  void Add(const Tensor& other) const;

 private:
  std::shared_ptr<void> storage_;
  void* data_ = nullptr;
  Device device_ = Device::kCpu;
  DType dtype_ = DType::kF32;
  Shape shape_;
  int64_t size_ = 0;
  int64_t stride_ = 0;
};

int64_t Product(const Shape& shape);
std::string ToString(const Shape& shape);  // "[2, 3]"

}  // namespace carry
