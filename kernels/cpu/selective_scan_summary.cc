// Summaries of a shard: selective_scan_summary.h. The layouts are those of the
// scan, selective_scan_layout.h.
//
// Unlike the scan, a token's term needs no other token's: s += exp(A D_t) x_t
// m_t with D_t the sum of steps between token and edge. One loop serves both
// directions; they differ in x (dt u or dy), m (B or C), and in the side that
// D_t counts from. With AVX-512 it is 10 uops for 16 states-times-channels, and
// blocks of states whose weights have died are passed over.

#include "kernels/selective_scan_summary.h"

#include <cmath>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan_layout.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan_summary.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/selective_scan-inl.h"

#ifndef CARRY_KERNELS_CPU_SUMMARY_INPUTS_
#define CARRY_KERNELS_CPU_SUMMARY_INPUTS_
namespace carry {

struct SummaryInputs {
  const SelectiveScanArgs& scan;
  bool backward;
  ConstMatView x;     // u or dout
  ConstMatView gate;  // z, backward only; data == nullptr: none
  ConstMatView m;     // B or C
  ScanSummary out;
};

}  // namespace carry
#endif  // CARRY_KERNELS_CPU_SUMMARY_INPUTS_

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// Groups that are prepared together, as in the scan.
constexpr int64_t kSummaryPanel = 8;
constexpr int64_t kSummaryWidth = kSummaryPanel * kScanGroup;

// Fewer states than the scan keeps in registers: small blocks die sooner.
constexpr int kSummaryBlock = 4;

// Weights below 2^kDead count as 0; see the header.
constexpr float kDead = -48;

struct SummaryScratch {
  float* a;     // [ng][N][16], in units of log2
  float* s;     // [ng][N][16]
  float* bias;  // [ng * 16]
  float* sum;   // [ng * 16], steps so far from the edge
  float* dead;  // [ng], 1 where no weight is left
  float* m;     // [kScanTile][2][N] as LoadTile makes it; one half is used
  float* d;     // [kScanTile][kSummaryWidth], D_t
  float* x;     // [kScanTile][kSummaryWidth]
  float* row;   // [3][kSummaryWidth], converted rows

  SummaryScratch(int64_t ng, int64_t states) {
    Scratch s1(ScratchSlot::kWorker,
               2 * ng * states * kScanGroup + 2 * ng * kScanGroup +
                   Scratch::Rounded(ng) +
                   Scratch::Rounded(2 * kScanTile * states) +
                   (2 * kScanTile + 3) * kSummaryWidth);
    a = s1.Take(ng * states * kScanGroup);
    s = s1.Take(ng * states * kScanGroup);
    bias = s1.Take(ng * kScanGroup);
    sum = s1.Take(ng * kScanGroup);
    dead = s1.Take(ng);
    m = s1.Take(2 * kScanTile * states);
    d = s1.Take(kScanTile * kSummaryWidth);
    x = s1.Take(kScanTile * kSummaryWidth);
    row = s1.Take(3 * kSummaryWidth);
  }
};

// One batch entry's channels [g0, g1).
class SummarySegment {
 public:
  SummarySegment(const SummaryInputs& in, int64_t b, int64_t g0, int64_t g1)
      : in_(in),
        b_(b),
        g0_(g0),
        g1_(g1),
        n_(in.scan.states),
        channels_(in.scan.channels),
        row0_(b * in.scan.time),
        s_(g1 - g0, in.scan.states) {}

  void Run() {
    LoadParameters();
    int64_t begin = 0, end = in_.scan.time;
    const bool cut = FindDocument(&begin, &end);
    // Tiles from the edge on: from the left for r, from the right for s.
    bool alive = true;
    while (begin < end && alive) {
      const int64_t rows = std::min(kScanTile, end - begin);
      const int64_t t0 = in_.backward ? begin : end - rows;
      alive = Tile(t0, rows);
      if (in_.backward) {
        begin += rows;
      } else {
        end -= rows;
      }
    }
    Write(cut);
  }

 private:
  int64_t GroupSize() const { return n_ * kScanGroup; }

  void LoadParameters() {
    for (int64_t g = g0_; g < g1_; ++g) {
      float* a = s_.a + (g - g0_) * GroupSize();
      TransposeGroupA(in_.scan.a, channels_, n_, g, a);
      // Channels that only pad die with the first token.
      for (int64_t i = channels_ - g * kScanGroup; i < kScanGroup; ++i) {
        for (int64_t n = 0; n < n_; ++n) a[n * kScanGroup + i] = -3e38f;
      }
    }
    std::fill_n(s_.s, (g1_ - g0_) * GroupSize(), 0.0f);
    std::fill_n(s_.sum, (g1_ - g0_) * kScanGroup, 0.0f);
    std::fill_n(s_.dead, g1_ - g0_, 0.0f);
    for (int64_t i = 0; i < (g1_ - g0_) * kScanGroup; ++i) {
      const int64_t e = g0_ * kScanGroup + i;
      const float* bias = in_.scan.dt_bias;
      s_.bias[i] = bias != nullptr && e < channels_ ? bias[e] : 0.0f;
    }
  }

  // Narrows [begin, end) to the tokens that share a document with the edge;
  // false if those are all.
  bool FindDocument(int64_t* begin, int64_t* end) const {
    const uint8_t* starts = in_.scan.document_start;
    if (starts == nullptr) return false;
    starts += row0_;
    if (in_.backward) {
      const uint8_t* first =
          std::find_if(starts, starts + *end, [](uint8_t s) { return s != 0; });
      if (first == starts + *end) return false;
      *end = first - starts;
      return true;
    }
    for (int64_t t = *end - 1; t >= 0; --t) {
      if (starts[t] == 0) continue;
      *begin = t;
      return true;
    }
    return false;
  }

  // False if no weight is left in any group.
  bool Tile(int64_t t0, int64_t rows) {
    LoadTile(in_.m, row0_ + t0, rows, s_.m);
    bool alive = false;
    for (int64_t g = g0_; g < g1_; g += kSummaryPanel) {
      const int64_t g_end = std::min(g + kSummaryPanel, g1_);
      bool panel = false;
      for (int64_t i = g; i < g_end; ++i) {
        if (s_.dead[i - g0_] == 0) s_.dead[i - g0_] = IsDead(i) ? 1.0f : 0.0f;
        panel |= s_.dead[i - g0_] == 0;
      }
      if (!panel) continue;
      alive = true;
      Panel(t0, rows, g, g_end);
    }
    return alive;
  }

  bool IsDead(int64_t g) const {
    const float* a = s_.a + (g - g0_) * GroupSize();
    const float* sum = s_.sum + (g - g0_) * kScanGroup;
    for (int64_t n = 0; n < n_; ++n) {
      for (int64_t lane = 0; lane < kScanGroup; lane += kLanes) {
        if (!BelowDead(LoadF(a + n * kScanGroup + lane), LoadF(sum + lane))) {
          return false;
        }
      }
    }
    return true;
  }
  static HWY_INLINE bool BelowDead(VF a, VF sum) {
    return hn::AllTrue(DF(), hn::Lt(hn::Mul(a, sum), Set(kDead)));
  }

  void Panel(int64_t t0, int64_t rows, int64_t g, int64_t g_end) {
    const int64_t col = g * kScanGroup;
    const int64_t width = std::min(channels_, g_end * kScanGroup) - col;
    // How far the edge is from this tile: what decides which states live.
    HWY_ALIGN float before[kSummaryWidth];
    std::memcpy(before, s_.sum + (g - g0_) * kScanGroup,
                (g_end - g) * kScanGroup * sizeof(float));
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t t = in_.backward ? i : rows - 1 - i;
      if (in_.gate.data != nullptr) {
        Prepare<true>(t, row0_ + t0 + t, col, width);
      } else {
        Prepare<false>(t, row0_ + t0 + t, col, width);
      }
    }
    next_t_ = g_end < g1_ ? t0 : in_.backward ? t0 + kScanTile : t0 - kScanTile;
    next_group_ = g_end < g1_ ? g_end : g0_;
    for (int64_t i = g; i < g_end; ++i) {
      if (s_.dead[i - g0_] == 0) Group(i, i - g, rows, before);
    }
  }

  // D_t and x_t of one row of a panel.
  template <bool kGate>
  HWY_INLINE void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* x = RowAsFloat(in_.x, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(in_.scan.dt_raw, row, col, width, s_.row + kSummaryWidth);
    const float* z = kGate ? RowAsFloat(in_.gate, row, col, width,
                                        s_.row + 2 * kSummaryWidth)
                           : nullptr;
    const int64_t channel = col - g0_ * kScanGroup;
    const float* bias = s_.bias + channel;
    float* sum = s_.sum + channel;
    float* ds = s_.d + t * kSummaryWidth;
    float* xs = s_.x + t * kSummaryWidth;
    const bool backward = in_.backward;
    ForBatches<kScanBatch>(
        WholeGroups(width), [&](int64_t i, auto count) HWY_ATTR {
          constexpr int kN = count.value;
          VF v[kN], dt[kN], slope[kN], factor[kN];
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            v[j] = hn::Add(LoadF(raw + at), LoadF(bias + at));
          }
          if constexpr (kGate) {
            VF zs[kN], s[kN];
            for (int j = 0; j < kN; ++j) zs[j] = LoadF(z + i + j * kLanes);
            SoftplusAndSigmoid<false>(v, dt, slope, zs, s);
            for (int j = 0; j < kN; ++j) factor[j] = hn::Mul(zs[j], s[j]);
          } else {
            Softplus<false>(v, dt, slope);
            for (int j = 0; j < kN; ++j) {
              factor[j] = backward ? Set(1.0f) : dt[j];
            }
          }
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            const VF before = LoadF(sum + at);
            const VF after = hn::Add(before, dt[j]);
            StoreF(after, sum + at);
            // g_in takes a_t itself; h_out does not.
            StoreF(backward ? after : before, ds + at);
            StoreF(hn::Mul(LoadF(x + at), factor[j]), xs + at);
          }
        });
  }

  // What the loops over the states of a group fetch ahead, one matrix each.
  Prefetcher Ahead(int64_t loop, int64_t in_panel) const {
    const ConstMatView views[] = {in_.x, in_.scan.dt_raw, in_.gate};
    if (loop > 2 || next_t_ < 0) return Prefetcher(s_.m);
    return Prefetcher(views[loop], row0_ + next_t_, kScanTile,
                      (next_group_ + in_panel) * kScanGroup, s_.m);
  }

  HWY_INLINE void Group(int64_t g, int64_t in_panel, int64_t rows,
                        const float* before) {
    const float* a = s_.a + (g - g0_) * GroupSize();
    float* s = s_.s + (g - g0_) * GroupSize();
    for (int64_t lane = 0; lane < kScanGroup; lane += kLanes) {
      const int64_t at = in_panel * kScanGroup + lane;
      const VF sum = LoadF(before + at);
      ForStateBlocks<kSummaryBlock>(n_, [&](int64_t n, auto size) HWY_ATTR {
        const int64_t state = n * kScanGroup + lane;
        bool dead = true;
        for (int j = 0; j < size.value; ++j) {
          dead = dead && BelowDead(LoadF(a + state + j * kScanGroup), sum);
        }
        const Prefetcher ahead = Ahead(n / kSummaryBlock, in_panel);
        if (!dead) Block<size.value>(a + state, s + state, n, at, rows, ahead);
      });
    }
  }

  // kBlock states from n on, of one vector of channels, over the tile.
  template <int kBlock>
  HWY_INLINE void Block(const float* HWY_RESTRICT a_at, float* s_at, int64_t n,
                        int64_t at, int64_t rows, Prefetcher ahead) const {
    const float* HWY_RESTRICT ds = s_.d + at;
    const float* HWY_RESTRICT xs = s_.x + at;
    const float* HWY_RESTRICT ms = s_.m + n;
    const int64_t states = n_;
    // Two tokens side by side: enough independent chains for the pipes.
    VF a[kBlock], s[2 * kBlock];
    for (int j = 0; j < kBlock; ++j) {
      a[j] = LoadF(a_at + j * kScanGroup);
      s[j] = LoadF(s_at + j * kScanGroup);
      s[kBlock + j] = Zero();
    }
    int64_t t = 0;
    for (; t + 2 <= rows; t += 2) {
      VF w[2 * kBlock];
      ahead.Next();
      ahead.Next();
      for (int k = 0; k < 2; ++k) {
        const VF d = LoadF(ds + k * kSummaryWidth);
        for (int j = 0; j < kBlock; ++j) w[k * kBlock + j] = hn::Mul(d, a[j]);
      }
      Exp2(w);
      for (int k = 0; k < 2; ++k) {
        const VF x = LoadF(xs + k * kSummaryWidth);
        for (int j = 0; j < kBlock; ++j) {
          const int i = k * kBlock + j;
          s[i] =
              hn::MulAdd(w[i], hn::Mul(x, Set(ms[2 * k * states + j])), s[i]);
        }
      }
      ds += 2 * kSummaryWidth;
      xs += 2 * kSummaryWidth;
      ms += 4 * states;
    }
    if (t < rows) {
      VF w[kBlock];
      for (int j = 0; j < kBlock; ++j) w[j] = hn::Mul(LoadF(ds), a[j]);
      Exp2(w);
      for (int j = 0; j < kBlock; ++j) {
        s[j] = hn::MulAdd(w[j], hn::Mul(LoadF(xs), Set(ms[j])), s[j]);
      }
    }
    for (int j = 0; j < kBlock; ++j) {
      StoreF(hn::Add(s[j], s[kBlock + j]), s_at + j * kScanGroup);
    }
  }

  void Write(bool cut) const {
    for (int64_t g = g0_; g < g1_; ++g) {
      TransposeGroupOut(s_.s + (g - g0_) * GroupSize(), channels_, n_, g,
                        in_.out.state + b_ * channels_ * n_);
      const bool nothing_passes = cut || IsDead(g);
      const float* sum = s_.sum + (g - g0_) * kScanGroup;
      float* out = in_.out.dt_sum + b_ * channels_ + g * kScanGroup;
      const int64_t valid = std::min(kScanGroup, channels_ - g * kScanGroup);
      for (int64_t i = 0; i < valid; ++i) {
        out[i] =
            nothing_passes ? std::numeric_limits<float>::infinity() : sum[i];
      }
    }
  }

  const SummaryInputs& in_;
  const int64_t b_, g0_, g1_, n_, channels_, row0_;
  SummaryScratch s_;
  int64_t next_t_ = 0, next_group_ = 0;  // The next panel.
};

void Summarize(const SummaryInputs& in) {
  const int64_t groups = ScanGroups(in.scan.channels);
  ParallelRanges(
      in.scan.batch * groups, [&](int64_t begin, int64_t end, int) HWY_ATTR {
        const FlushDenormals flush;
        ForScanSegments(groups, begin, end,
                        [&](int64_t b, int64_t g0, int64_t g1)
                            HWY_ATTR { SummarySegment(in, b, g0, g1).Run(); });
      });
}

// One channel's states.
HWY_INLINE void ApplyRow(int64_t states, const float* a, const float* s,
                         float dt_sum, float* state) {
  const VF rate = Set(dt_sum * kLog2E);
  ForLanes(states, [&](int64_t n, auto lanes) HWY_ATTR {
    VF p[1] = {hn::Mul(LoadF(a + n, lanes), rate)};
    Exp2(p);
    const VF h = hn::MulAdd(p[0], LoadF(state + n, lanes), LoadF(s + n, lanes));
    StoreF(h, state + n, lanes);
  });
}

void Apply(int64_t batch, int64_t channels, int64_t states, const float* a,
           const float* s, const float* dt_sum, float* state) {
  ParallelRanges(batch * channels,
                 [&](int64_t begin, int64_t end, int) HWY_ATTR {
                   const FlushDenormals flush;
                   for (int64_t i = begin; i < end; ++i) {
                     const int64_t at = i * states;
                     if (std::isinf(dt_sum[i])) {
                       std::copy_n(s + at, states, state + at);
                     } else {
                       ApplyRow(states, a + i % channels * states, s + at,
                                dt_sum[i], state + at);
                     }
                   }
                 });
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {

HWY_EXPORT(Summarize);
HWY_EXPORT(Apply);

namespace {

void Run(const SummaryInputs& in) {
  const SelectiveScanArgs& scan = in.scan;
  CARRY_CHECK(scan.batch >= 1 && scan.time >= 1 && scan.channels >= 1);
  CARRY_CHECK(scan.states >= 1 && scan.states <= 256);
  CARRY_CHECK(in.m.cols == scan.states);
  HWY_DYNAMIC_DISPATCH(Summarize)(in);
}

}  // namespace

void SelectiveScanSummary(const SelectiveScanArgs& args,
                          const ScanSummary& summary) {
  Run({args, false, args.u, {}, args.b, summary});
}

void SelectiveScanGradSummary(const SelectiveScanArgs& args,
                              const ConstMatView& dout,
                              const ScanSummary& summary) {
  Run({args, true, dout, args.z, args.c, summary});
}

void ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                      const float* a, const float* s, const float* dt_sum,
                      float* state) {
  HWY_DYNAMIC_DISPATCH(Apply)(batch, channels, states, a, s, dt_sum, state);
}

}  // namespace carry
#endif  // HWY_ONCE
