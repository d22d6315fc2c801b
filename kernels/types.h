// Element types and the plain views that kernels work on.
//
// A view owns nothing. Sizes and strides are 64-bit counts of elements.
#pragma once

#include <cstdint>
#include <cstring>

namespace carry {

enum class DType : uint8_t { kF32, kBF16, kI32, kU8, kI64, kF64 };

constexpr int64_t SizeOf(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32:
      return 4;
    case DType::kBF16:
      return 2;
    case DType::kU8:
      return 1;
    case DType::kI64:
    case DType::kF64:
      return 8;
  }
  return 0;
}

constexpr const char* Name(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kI32:
      return "I32";
    case DType::kU8:
      return "U8";
    case DType::kI64:
      return "I64";
    case DType::kF64:
      return "F64";
  }
  return "?";
}

// The upper half of an fp32; storage only, arithmetic is fp32.
struct BFloat16 {
  uint16_t bits;
};

inline float ToFloat(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float f;
  std::memcpy(&f, &bits, sizeof(f));
  return f;
}

// Rounds to nearest even; NaN stays NaN.
inline BFloat16 ToBFloat16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40)};
  }
  return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

// How a kernel writes a gradient.
enum class Write : uint8_t { kOverwrite, kAccumulate };

// Row-major [rows, cols] of fp32 or bf16 with `stride` elements from one row
// to the next, so that a column range of a wider matrix is a view too.
// Activations [B, T, E] have rows = B * T.
struct ConstMatView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;
};

struct MatView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  operator ConstMatView() const {  // NOLINT(google-explicit-constructor)
    return {data, dtype, rows, cols, stride};
  }
};

}  // namespace carry
