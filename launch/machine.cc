#include "launch/machine.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "kernels/matmul.h"

namespace carry {

double MeasureMatMulPeak(DType dtype) {
  // Large enough to be bound by arithmetic, small enough for the L2 caches.
  constexpr int64_t kSize = 1024;
  std::vector<float> weights(kSize * kSize, 0.5f), out(kSize * kSize);
  // 0.747 as fp32 and as bf16.
  const std::vector<uint8_t> in(kSize * kSize * SizeOf(dtype), 0x3f);
  const ConstMatView w{weights.data(), DType::kF32, kSize, kSize, kSize};
  const ConstMatView a{in.data(), dtype, kSize, kSize, kSize};
  const MatView c{out.data(), DType::kF32, kSize, kSize, kSize};
  const PackedWeight packed(w, /*transpose=*/true, dtype, kSize);

  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  double best = 1e30;
  do {
    const Clock::time_point start = Clock::now();
    MatMul(a, packed, c, Write::kOverwrite, nullptr);
    best = std::min(
        best, std::chrono::duration<double>(Clock::now() - start).count());
  } while (Clock::now() - begin < std::chrono::milliseconds(200));
  return 2.0 * kSize * kSize * kSize / best;
}

}  // namespace carry
