// Boxes of kernels/strided_copy.h against what their definition says.
#pragma once

#include <functional>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/strided_copy.h"
#include "tests/kernels/case_util.h"

namespace carry::testing {

// An array of one type that a view looks into.
struct BoxMemory {
  BoxMemory(DType dtype, int64_t n, uint64_t seed)
      : type(dtype), f32(n), half(n) {
    Random random(seed);
    f32 = Floats(random.Vector(n, -2, 2));
    for (int64_t i = 0; i < n; ++i) half[i] = ToBFloat16(f32[i]);
  }
  float Get(int64_t at) const {
    return type == DType::kF32 ? f32[at] : ToFloat(half[at]);
  }
  void Set(int64_t at, float x) {
    f32[at] = x;
    half[at] = ToBFloat16(x);
  }
  void* data() {
    return type == DType::kF32 ? static_cast<void*>(f32.data()) : half.data();
  }
  int64_t bytes() const {
    return static_cast<int64_t>(f32.size()) * SizeOf(type);
  }

  DType type;
  std::vector<float> f32;
  std::vector<BFloat16> half;
};

// `run` does args.dst = args.src; arrays are those that the views point into.
using RunBox =
    std::function<void(const StridedCopyArgs& args, BoxMemory& dst,
                       BoxMemory& src, const std::vector<uint8_t>& keep)>;

inline void ExpectStridedCopies(const RunBox& run) {
  const int64_t sizes[][3] = {{1, 1, 1}, {2, 3, 5}, {3, 1, 300}, {2, 0, 4}};
  for (const auto& size : sizes) {
    for (DType to : {DType::kF32, DType::kBF16}) {
      for (DType from : {DType::kF32, DType::kBF16}) {
        for (int variant = 0; variant < 4; ++variant) {
          const int64_t n = size[0] * (size[1] + 2) * (size[2] + 3) + 8;
          BoxMemory dst(to, n, 1), src(from, n, 2);
          StridedCopyArgs args{};
          std::copy(size, size + 3, args.size);
          // Rows with a pitch; the last two axes change places.
          args.dst = {
              nullptr, to, {(size[1] + 2) * (size[2] + 3), size[2] + 3, 1}};
          args.src = {nullptr, from, {size[1] * size[2], 1, size[1]}};
          args.write =
              variant % 2 == 0 ? Write::kOverwrite : Write::kAccumulate;
          std::vector<uint8_t> keep;
          for (int64_t i = 0; variant >= 2 && i < size[0] * size[1]; ++i) {
            keep.push_back(i % 3 != 1);
          }
          BoxMemory want = dst;
          for (int64_t i = 0; i < size[0]; ++i) {
            for (int64_t j = 0; j < size[1]; ++j) {
              const bool kept = keep.empty() || keep[i * size[1] + j] != 0;
              for (int64_t k = 0; k < size[2]; ++k) {
                const int64_t at =
                    i * args.dst.stride[0] + j * args.dst.stride[1] + k;
                float x = kept ? src.Get(i * args.src.stride[0] + j +
                                         k * args.src.stride[2])
                               : 0.0f;
                if (variant % 2 != 0) x += want.Get(at);
                want.Set(at, x);
              }
            }
          }
          run(args, dst, src, keep);
          for (int64_t at = 0; at < n; ++at) {
            ASSERT_EQ(dst.Get(at), want.Get(at)) << at << ", " << variant;
          }
        }
      }
    }
  }
}

}  // namespace carry::testing
