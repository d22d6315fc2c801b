// Elements of a box from one place to another, each with its own strides and
// type.
//
//   dst[i, j, k] = keep[i, j] ? src[i, j, k] : 0     or  += , for all i < n_0,
//                                                     j < n_1, k < n_2
//
// fp32 and bf16, rounded to nearest. For small boxes: one element at a time.
#pragma once

#include "kernels/types.h"

namespace carry {

struct StridedView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  int64_t stride[3] = {0, 0, 0};  // elements
};

struct StridedCopyArgs {
  int64_t size[3];
  StridedView dst;
  StridedView src;                // data == nullptr: zeros
  const uint8_t* keep = nullptr;  // [n_0, n_1], or nullptr: all
  Write write = Write::kOverwrite;
};
void StridedCopy(const StridedCopyArgs& args);

}  // namespace carry
