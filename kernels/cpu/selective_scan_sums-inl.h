// Adds up the partial sums of the scan's backward pass.

#if defined(CARRY_KERNELS_CPU_SELECTIVE_SCAN_SUMS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SELECTIVE_SCAN_SUMS_INL_H_
#undef CARRY_KERNELS_CPU_SELECTIVE_SCAN_SUMS_INL_H_
#else
#define CARRY_KERNELS_CPU_SELECTIVE_SCAN_SUMS_INL_H_
#endif

#include <vector>

#include "kernels/cpu/selective_scan-inl.h"
#include "kernels/cpu/selective_scan_sums.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE void AddParts(const SelectiveScanArgs& args,
                         const std::vector<ThreadPart>& parts, int64_t row,
                         int64_t offset, const MatView& to) {
  const int64_t b = row / args.time, t = row % args.time;
  const int64_t size = args.time * args.states;
  T* out = static_cast<T*>(to.data) + row * to.stride;
  ForLanes(args.states, [&](int64_t n, auto lanes) HWY_ATTR {
    VF sum = Zero();
    for (const ThreadPart& part : parts) {
      if (b < part.first || b >= part.first + part.entries) continue;
      const float* at = part.dbc + (b - part.first) * size +
                        offset * part.entries * size + t * args.states + n;
      sum = hn::Add(sum, LoadF(at, lanes));
    }
    StoreF(sum, out + n, lanes);
  });
}

// Rows [begin, end) of dB and dC of all threads, in their order.
void ReduceDbc(const SelectiveScanArgs& args,
               const SelectiveScanBackwardArgs& grad,
               const std::vector<ThreadPart>& parts, int64_t begin,
               int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    for (int64_t i = 0; i < 2; ++i) {
      const MatView& to = i == 0 ? grad.db : grad.dc;
      if (to.dtype == DType::kF32) {
        AddParts<float>(args, parts, row, i, to);
      } else {
        AddParts<BFloat16>(args, parts, row, i, to);
      }
    }
  }
}

// dA, dD and ddt_bias of groups [begin, end) of all batch entries, in their
// order.
void ReduceParameters(const SelectiveScanArgs& args,
                      const SelectiveScanBackwardArgs& grad,
                      const ScanSums& sums, int64_t begin, int64_t end) {
  const int64_t groups = ScanGroups(args.channels);
  for (int64_t g = begin; g < end; ++g) {
    const int64_t e0 = g * kScanGroup;
    const int64_t valid = std::min(kScanGroup, args.channels - e0);
    for (int64_t b = 0; b < args.batch; ++b) {
      const int64_t at = b * groups + g;
      TransposeGroupOut<true>(sums.da + at * args.states * kScanGroup,
                              args.channels, args.states, g, grad.da);
      const float* dd = sums.dd + at * kScanGroup;
      const float* dbias = sums.dbias + at * kScanGroup;
      for (int64_t i = 0; i < valid; ++i) {
        if (grad.dd != nullptr) grad.dd[e0 + i] += dd[i];
        if (grad.ddt_bias != nullptr) grad.ddt_bias[e0 + i] += dbias[i];
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_SUMS_INL_H_
