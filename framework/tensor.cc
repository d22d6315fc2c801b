#include "framework/tensor.h"

#include <cstring>

#include "kernels/elementwise.h"

namespace carry {

int64_t Product(const Shape& shape) {
  int64_t product = 1;
  for (int64_t d : shape) {
    int64_t next;
    CARRY_CHECK(d >= 0 && !__builtin_mul_overflow(product, d, &next));
    product = next;
  }
  return product;
}

std::string ToString(const Shape& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

Tensor Tensor::Empty(Shape shape, DType dtype, MemoryPart part) {
  Tensor t;
  t.size_ = Product(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.stride_ = t.cols();
  t.storage_ = AllocateMemory(t.bytes(), part);
  t.data_ = t.storage_.get();
  return t;
}

Tensor Tensor::Zeros(Shape shape, DType dtype, MemoryPart part) {
  Tensor t = Empty(std::move(shape), dtype, part);
  t.Zero();
  return t;
}

Tensor Tensor::Columns(int64_t begin, int64_t count) const {
  CARRY_CHECK(begin >= 0 && count >= 0 && begin + count <= cols());
  Tensor t = *this;
  t.shape_.back() = count;
  t.size_ = Product(t.shape_);
  t.data_ = static_cast<char*>(data_) + begin * SizeOf(dtype_);
  return t;
}

Tensor Tensor::Rows(int64_t begin, int64_t count) const {
  CARRY_CHECK(begin >= 0 && count >= 0 && begin + count <= rows());
  Tensor t = *this;
  t.shape_ = {count, cols()};
  t.size_ = Product(t.shape_);
  t.data_ = static_cast<char*>(data_) + begin * stride_ * SizeOf(dtype_);
  return t;
}

Tensor Tensor::Slice(int64_t begin, Shape shape) const {
  CARRY_CHECK(contiguous());
  Tensor t = *this;
  t.size_ = Product(shape);
  CARRY_CHECK(begin >= 0 && begin + t.size_ <= size_);
  t.shape_ = std::move(shape);
  t.stride_ = t.cols();
  t.data_ = static_cast<char*>(data_) + begin * SizeOf(dtype_);
  return t;
}

void Tensor::Zero() const {
  if (contiguous()) {
    std::memset(data_, 0, bytes());
    return;
  }
  for (int64_t r = 0; r < rows(); ++r) {
    std::memset(static_cast<char*>(data_) + r * stride_ * SizeOf(dtype_), 0,
                cols() * SizeOf(dtype_));
  }
}

Tensor Tensor::Clone(MemoryPart part) const {
  Tensor copy = Empty(shape_, dtype_, part);
  for (int64_t r = 0; r < rows(); ++r) {
    std::memcpy(static_cast<char*>(copy.data_) + r * cols() * SizeOf(dtype_),
                static_cast<char*>(data_) + r * stride_ * SizeOf(dtype_),
                cols() * SizeOf(dtype_));
  }
  return copy;
}

void Tensor::Add(const Tensor& other) const {
  CARRY_CHECK(size_ == other.size_ && contiguous() && other.contiguous());
  AddTo(f32(), other.data(), other.dtype(), size_);
}

}  // namespace carry
