#include "launch/device_rates.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "framework/tensor.h"
#include "launch/machine.h"

namespace carry {
namespace {

using Clock = std::chrono::steady_clock;

double Since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

}  // namespace

double MeasureProductPeak(DType dtype) {
  if (DefaultDevice() == Device::kCpu) return MeasureMatMulPeak(dtype);
  constexpr double kEnough = 2e-3;
  double best = 0;
  // Larger until one takes long enough to fill the device.
  for (int64_t n = 512; n <= 8192; n *= 2) {
    const Tensor a = Tensor::Zeros({n, n}, dtype);
    const Tensor c = Tensor::Empty({n, n}, DType::kF32);
    double seconds = 1e30;
    for (int run = 0; run < 3; ++run) {
      if (!a.backend().Synchronize().ok()) return best;
      const Clock::time_point begin = Clock::now();
      a.backend().MatMul(a.view(), false, a.view(), true, c.view(),
                         Write::kOverwrite);
      if (!a.backend().Synchronize().ok()) return best;
      seconds = std::min(seconds, Since(begin));
    }
    best = std::max(best, 2.0 * static_cast<double>(n * n * n) / seconds);
    if (seconds > kEnough) break;
  }
  return best;
}

double MeasureDeviceCopy() {
  constexpr int64_t kBytes = int64_t{64} << 20;
  const Tensor from = Tensor::Zeros({kBytes}, DType::kU8);
  const Tensor to = Tensor::Empty({kBytes}, DType::kU8);
  double best = std::numeric_limits<double>::max();
  for (int i = 0; i < 3 && to.backend().Synchronize().ok(); ++i) {
    const Clock::time_point begin = Clock::now();
    to.CopyFrom(from);
    if (to.backend().Synchronize().ok()) best = std::min(best, Since(begin));
  }
  return 2.0 * kBytes / best;
}

}  // namespace carry
