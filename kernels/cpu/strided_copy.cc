#include "kernels/strided_copy.h"

namespace carry {
namespace {

float Load(const StridedView& v, int64_t at) {
  return v.dtype == DType::kF32
             ? static_cast<const float*>(v.data)[at]
             : ToFloat(static_cast<const BFloat16*>(v.data)[at]);
}

void Store(float x, const StridedView& v, int64_t at) {
  if (v.dtype == DType::kF32) {
    static_cast<float*>(v.data)[at] = x;
  } else {
    static_cast<BFloat16*>(v.data)[at] = ToBFloat16(x);
  }
}

int64_t At(const StridedView& v, int64_t i, int64_t j, int64_t k) {
  return i * v.stride[0] + j * v.stride[1] + k * v.stride[2];
}

}  // namespace

void StridedCopy(const StridedCopyArgs& args) {
  for (int64_t i = 0; i < args.size[0]; ++i) {
    for (int64_t j = 0; j < args.size[1]; ++j) {
      const bool keep =
          args.src.data != nullptr &&
          (args.keep == nullptr || args.keep[i * args.size[1] + j] != 0);
      for (int64_t k = 0; k < args.size[2]; ++k) {
        float x = keep ? Load(args.src, At(args.src, i, j, k)) : 0.0f;
        const int64_t to = At(args.dst, i, j, k);
        if (args.write == Write::kAccumulate) x += Load(args.dst, to);
        Store(x, args.dst, to);
      }
    }
  }
}

}  // namespace carry
