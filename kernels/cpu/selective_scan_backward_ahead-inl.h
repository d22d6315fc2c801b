// What the scan's backward pass fetches ahead, line by line between its
// arithmetic: the inputs behind this panel, states, and outputs.

#if defined(CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_AHEAD_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_AHEAD_INL_H_
#undef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_AHEAD_INL_H_
#else
#define CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_AHEAD_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/selective_scan_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// One batch entry's channels [g0, g1). With several loops over states the
// inputs of the next panel are fetched in them. With a single one there is too
// little time: half of them before the loops, or, in narrow panels, all
// inputs of the next tile in the order of memory, which the hardware prefetcher
// joins.
class BackwardAhead {
 public:
  // `idle`: any memory of which a line may be touched.
  BackwardAhead(const SelectiveScanArgs& args, const ConstMatView& dout,
                const VectorWriter& du, const VectorWriter& ddt,
                const VectorWriter& dz, int64_t row0, int64_t g0, int64_t g1,
                const void* idle)
      : inputs_{args.u, args.dt_raw, args.z, dout},
        outputs_{&du, &ddt, &dz},
        single_(args.states <= kBackBlock),
        runs_(single_ && BackPanel(args) < kBackPanel),
        states_(args.states),
        row0_(row0),
        g0_(g0),
        g1_(g1),
        idle_(idle) {}

  void StartTile(int64_t t0) {
    array_ = t0 > 0 && runs_ ? 0 : kInputs;
    run_row_ = run_byte_ = 0;
    tile_row_ = row0_ + t0 - kScanTile;
  }

  // The panel [g, g_end) of the tile at t0.
  void StartPanel(int64_t t0, int64_t g, int64_t g_end) {
    group_ = g;
    row_ = row0_ + t0;
    const bool last = g_end >= g1_;
    next_group_ = last ? g0_ : g_end;
    next_row_ = !last ? row_ : t0 > 0 ? row_ - kScanTile : -1;
  }

  // Behind row t of the panel, or rows t - 1 and t, on their way into scratch.
  HWY_INLINE void InRow(int64_t t) {
    if (runs_) {
      NextRun().Burst(kRunLines);
    } else if (single_) {
      for (int64_t i = 0; i < kBackWidth / kLanes; i += kScanGroup / kLanes) {
        for (int which : {2, 3}) {
          Prefetcher ahead = Input(which, i);
          ahead.base += t * ahead.stride;
          ahead.Next();
        }
      }
    }
  }

  // For the loop-th loop over states of vector i, which works on `v` with
  // `slots` vectors together.
  HWY_INLINE void InLoop(int64_t loop, int64_t i, const StateRows& v, int64_t n,
                         int slots, Prefetcher* ahead0, Prefetcher* ahead1) {
    if (runs_) {
      *ahead0 = NextRun();
      *ahead1 = Saved(v, n, slots);
      return;
    }
    switch (loop) {
      case 0:
        *ahead0 = Input(0, i);
        *ahead1 = Input(1, i);
        return;
      case 1:
        *ahead0 = Input(2, i);
        *ahead1 = Input(3, i);
        return;
      case 2:
        *ahead0 = Saved(v, n, slots);
        *ahead1 = Output(0, i);
        return;
      case 3:
        *ahead0 = Output(1, i);
        *ahead1 = Output(2, i);
        return;
    }
  }

 private:
  static constexpr int kInputs = 4;
  // Lines of a run, which a loop over a tile's tokens fetches.
  static constexpr int64_t kRunLines = kScanTile;

  HWY_INLINE Prefetcher NextRun() {
    Prefetcher run(idle_);
    while (array_ < kInputs && inputs_[array_].data == nullptr) ++array_;
    if (array_ == kInputs) return run;
    const ConstMatView& v = inputs_[array_];
    const int64_t size = SizeOf(v.dtype), first = g0_ * kScanGroup;
    run.base = static_cast<const char*>(v.data) +
               ((tile_row_ + run_row_) * v.stride + first) * size + run_byte_;
    run.stride = 64;
    run_byte_ += kRunLines * 64;
    if (run_byte_ >= (std::min(v.cols, g1_ * kScanGroup) - first) * size) {
      run_byte_ = 0;
      if (++run_row_ == kScanTile) {
        run_row_ = 0;
        ++array_;
      }
    }
    return run;
  }

  // The same place of the next panel.
  Prefetcher Input(int which, int64_t i) const {
    return Prefetcher(inputs_[which], next_row_, kScanTile,
                      next_group_ * kScanGroup + i * kLanes, idle_);
  }
  // The states that were saved for the vector behind this one's pair.
  Prefetcher Saved(const StateRows& v, int64_t n, int slots) const {
    Prefetcher ahead(v.saved - n * kScanGroup + slots * states_ * kScanGroup);
    ahead.stride = states_ * 64 / kScanTile;
    return ahead;
  }
  // An output that does not bypass the caches, where this vector will write.
  Prefetcher Output(int which, int64_t i) const {
    const VectorWriter& writer = *outputs_[which];
    if (writer.stream || writer.lines) return Prefetcher(idle_);
    return Prefetcher(writer.view, row_, kScanTile,
                      group_ * kScanGroup + i * kLanes, idle_);
  }

  const ConstMatView inputs_[kInputs];
  const VectorWriter* const outputs_[3];
  const bool single_, runs_;  // Loops over states; what they fetch.
  const int64_t states_, row0_, g0_, g1_;
  const void* const idle_;
  int64_t row_ = 0, group_ = 0;            // This panel.
  int64_t next_row_ = 0, next_group_ = 0;  // The next one; row -1: none.
  int array_ = kInputs;                    // The next run.
  int64_t tile_row_ = 0, run_row_ = 0, run_byte_ = 0;
};

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_AHEAD_INL_H_
