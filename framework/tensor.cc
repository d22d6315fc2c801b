#include "framework/tensor.h"

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

Tensor Tensor::Empty(Shape shape, DType dtype, MemoryPart part, Device device) {
  Tensor t;
  t.size_ = Product(shape);
  t.shape_ = std::move(shape);
  t.dtype_ = dtype;
  t.stride_ = t.cols();
  t.device_ = device;
  t.storage_ = AllocateMemory(t.bytes(), part, device);
  t.data_ = t.storage_.get();
  return t;
}

Tensor Tensor::Zeros(Shape shape, DType dtype, MemoryPart part) {
  Tensor t = Empty(std::move(shape), dtype, part);
  t.Zero();
  return t;
}

Tensor Tensor::FromHost(const void* host, Shape shape, DType dtype,
                        MemoryPart part) {
  Tensor t = Empty(std::move(shape), dtype, part);
  t.backend().FromHost(t.data_, host, t.bytes());
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
  const int64_t element = SizeOf(dtype_);
  if (contiguous()) {
    backend().Zero(data_, bytes(), bytes(), 1);
  } else {
    backend().Zero(data_, stride_ * element, cols() * element, rows());
  }
}

Tensor Tensor::Clone(MemoryPart part) const {
  Tensor copy = Empty(shape_, dtype_, part, device_);
  copy.CopyFrom(*this);
  return copy;
}

void Tensor::CopyFrom(const Tensor& other) const {
  CARRY_CHECK(size_ == other.size_ && dtype_ == other.dtype_ &&
              device_ == other.device_);
  const int64_t element = SizeOf(dtype_);
  if (contiguous() && other.contiguous()) {
    backend().Copy(data_, bytes(), other.data_, bytes(), bytes(), 1);
    return;
  }
  CARRY_CHECK(cols() == other.cols());
  backend().Copy(data_, stride_ * element, other.data_, other.stride_ * element,
                 cols() * element, rows());
}

absl::StatusOr<Tensor> Tensor::ToHost() const {
  if (device_ == Device::kCpu) return *this;
  const Tensor dense = contiguous() ? *this : Clone();
  Tensor host = Empty(shape_, dtype_, MemoryPart::kActivations, Device::kCpu);
  absl::Status status = backend().ToHost(host.data_, dense.data_, bytes());
  if (!status.ok()) return status;
  return host;
}

void Tensor::Add(const Tensor& other) const {
  CARRY_CHECK(size_ == other.size_ && contiguous() && other.contiguous());
  backend().AddTo(f32(), other.data(), other.dtype(), size_);
}

}  // namespace carry
