// The scan's forward pass. See selective_scan_layout.h for the layouts.
//
// A thread owns a range of channel groups and goes tile by tile through time.
// In a tile, a panel of up to 8 groups is prepared row by row (softplus, gate:
// contiguous reads), then each vector of channels runs its 16 tokens with
// `kStateBlock` states in registers and writes its output in the last of these
// loops. With AVX-512 the inner loop is 11 uops for 16 states-times-channels: 8
// for exp(dt A), and dt u B, h, y. Both ports that take them also take scalar
// instructions, so the loop has few: all that it reads and writes of a token
// lies at fixed distances from two pointers.

#include "kernels/selective_scan.h"

#include "kernels/check.h"
#include "kernels/cpu/flush_denormals.h"
#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan_layout.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/selective_scan.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// Groups that are prepared together: 128 channels, 512 contiguous bytes a row.
constexpr int64_t kPanel = 8;
constexpr int64_t kPanelWidth = kPanel * kScanGroup;

// A token's row in scratch: arrays of kPanelWidth, and a cache line so that the
// tokens of a channel do not share cache sets.
enum ForwardArray { kDt, kDx, kY, kGate, kForwardArrays };
constexpr int64_t kForwardRow = kForwardArrays * kPanelWidth + kScanGroup;

struct ForwardScratch {
  float* a;      // [ng][N][16], in units of log2
  float* h;      // [ng][N][16]
  float* bias;   // [ng * 16]
  float* d;      // [ng * 16]
  float* bc;     // [kScanTile][2][N]
  float* token;  // [kScanTile][kForwardRow]: dt, dt u, y from D u on, silu(z)
  float* row;    // [3][kPanelWidth], converted rows
  LineWriter lines;
  uint32_t keep[kScanTile];

  static int64_t Size(int64_t ng, int64_t states) {
    return 2 * ng * states * kScanGroup + 2 * ng * kScanGroup +
           Scratch::Rounded(2 * kScanTile * states) + kScanTile * kForwardRow +
           3 * kPanelWidth + LineWriter::kTails;
  }
  ForwardScratch(int64_t ng, int64_t states) {
    Scratch s(ScratchSlot::kWorker, Size(ng, states));
    a = s.Take(ng * states * kScanGroup);
    h = s.Take(ng * states * kScanGroup);
    bias = s.Take(ng * kScanGroup);
    d = s.Take(ng * kScanGroup);
    bc = s.Take(2 * kScanTile * states);
    token = s.Take(kScanTile * kForwardRow);
    row = s.Take(3 * kPanelWidth);
    lines.tails = s.Take(LineWriter::kTails);
  }
};

// States [n, n + kBlock) of one vector of channels over the tile, beginning
// with `h`. `token` and `bc` point at the first token's. finish(t, y) is called
// with y so far.
template <bool kReset, int kBlock, class Finish>
HWY_INLINE void ForwardBlock(const float* HWY_RESTRICT a_at,
                             float* HWY_RESTRICT h_at,
                             const float* HWY_RESTRICT token,
                             const float* HWY_RESTRICT bc, int64_t states,
                             const uint32_t* keep, int64_t rows,
                             Prefetcher ahead0, Prefetcher ahead1,
                             const Finish& finish) {
  VF a[kBlock], h[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    a[j] = LoadF(a_at + j * kScanGroup);
    h[j] = LoadF(h_at + j * kScanGroup);
  }
  const int64_t bc_step = 2 * states;
  for (int64_t t = 0; t < rows; ++t) {
    const VF dt = LoadF(token + kDt * kPanelWidth);
    const VF dx = LoadF(token + kDx * kPanelWidth);
    VF y = LoadF(token + kY * kPanelWidth);
    ahead0.Next();
    ahead1.Next();
    VF decay[kBlock];
    for (int j = 0; j < kBlock; ++j) decay[j] = hn::Mul(dt, a[j]);
    Exp2(decay);
    for (int j = 0; j < kBlock; ++j) {
      if constexpr (kReset) {
        decay[j] = hn::And(decay[j], KeepMask(keep + t));
        h[j] = hn::And(h[j], KeepMask(keep + t));
      }
      h[j] = hn::MulAdd(decay[j], h[j], hn::Mul(dx, Set(bc[j])));
      y = hn::MulAdd(h[j], Set(bc[states + j]), y);
    }
    finish(t, y);
    token += kForwardRow;
    bc += bc_step;
  }
  for (int j = 0; j < kBlock; ++j) StoreF(h[j], h_at + j * kScanGroup);
}

// One batch entry's channels [g0, g1).
class ForwardSegment {
 public:
  ForwardSegment(const SelectiveScanArgs& args,
                 const SelectiveScanForwardOut& out, int64_t b, int64_t g0,
                 int64_t g1)
      : args_(args),
        out_(out),
        b_(b),
        g0_(g0),
        g1_(g1),
        n_(args.states),
        row0_(b * args.time),
        s_(g1 - g0, args.states),
        writer_(out.out) {}

  void Run() {
    LoadParameters();
    for (int64_t t0 = 0; t0 < args_.time; t0 += kScanTile) Tile(t0);
    if (out_.state_out != nullptr) {
      for (int64_t g = g0_; g < g1_; ++g) {
        TransposeGroupOut(StateOf(g), args_.channels, n_, g,
                          out_.state_out + b_ * args_.channels * n_);
      }
    }
  }

 private:
  int64_t GroupSize() const { return n_ * kScanGroup; }
  float* StateOf(int64_t g) const { return s_.h + (g - g0_) * GroupSize(); }

  void LoadParameters() {
    const int64_t channels = args_.channels;
    for (int64_t g = g0_; g < g1_; ++g) {
      TransposeGroupA(args_.a, channels, n_, g, s_.a + (g - g0_) * GroupSize());
      if (args_.state_in != nullptr) {
        TransposeGroupIn(args_.state_in + b_ * channels * n_, channels, n_, g,
                         StateOf(g));
      } else {
        std::fill_n(StateOf(g), GroupSize(), 0.0f);
      }
    }
    for (int64_t i = 0; i < (g1_ - g0_) * kScanGroup; ++i) {
      const int64_t e = g0_ * kScanGroup + i;
      const bool valid = e < channels;
      s_.bias[i] = valid && args_.dt_bias != nullptr ? args_.dt_bias[e] : 0.0f;
      s_.d[i] = valid && args_.d != nullptr ? args_.d[e] : 0.0f;
    }
  }

  void Tile(int64_t t0) {
    const int64_t rows = std::min(kScanTile, args_.time - t0);
    LoadTile(args_.b, row0_ + t0, rows, s_.bc);
    LoadTile(args_.c, row0_ + t0, rows, s_.bc + n_);
    bool reset = false;
    for (int64_t t = 0; t < rows; ++t) {
      const bool start = args_.document_start != nullptr &&
                         args_.document_start[row0_ + t0 + t] != 0;
      s_.keep[t] = start ? 0u : ~0u;
      reset |= start;
    }
    for (int64_t g = g0_; g < g1_; g += kPanel) {
      Panel(t0, rows, g, std::min(g + kPanel, g1_), reset);
    }
  }

  void Panel(int64_t t0, int64_t rows, int64_t g, int64_t g_end, bool reset) {
    const int64_t col = g * kScanGroup;
    const int64_t width = std::min(args_.channels, g_end * kScanGroup) - col;
    for (int64_t t = 0; t < rows; ++t) Prepare(t, row0_ + t0 + t, col, width);
    next_t_ = g_end < g1_ ? t0 : t0 + kScanTile;
    next_group_ = g_end < g1_ ? g_end : g0_;
    rows_ = rows;
    for (int64_t i = g; i < g_end; ++i) {
      if (out_.saved != nullptr) Save(t0, i);
      if (reset) {
        Group<true>(t0, rows, i, i - g);
      } else {
        Group<false>(t0, rows, i, i - g);
      }
    }
    if (!writer_.lines) return;
    for (int64_t t = 0; t < rows; ++t) {
      s_.lines.Write(out_.out, t, row0_ + t0 + t, col, width,
                     s_.token + t * kForwardRow + kY * kPanelWidth, g == g0_,
                     g_end == g1_);
    }
  }

  // dt, dx, D u and the gate of one row of a panel.
  HWY_INLINE void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(args_.dt_raw, row, col, width, s_.row + kPanelWidth);
    const float* bias = s_.bias + col - g0_ * kScanGroup;
    const float* d = s_.d + col - g0_ * kScanGroup;
    float* HWY_RESTRICT token = s_.token + t * kForwardRow;
    const int64_t whole = WholeGroups(width);
    ForBatches<kScanBatch>(whole, [&](int64_t i, auto count) HWY_ATTR {
      constexpr int kN = count.value;
      VF x[kN], dt[kN], none[kN];
      for (int j = 0; j < kN; ++j) {
        const int64_t at = i + j * kLanes;
        x[j] = hn::Add(LoadF(raw + at), LoadF(bias + at));
      }
      Softplus<false>(x, dt, none);
      for (int j = 0; j < kN; ++j) {
        const int64_t at = i + j * kLanes;
        const VF ui = LoadF(u + at);
        StoreF(dt[j], token + kDt * kPanelWidth + at);
        StoreF(hn::Mul(dt[j], ui), token + kDx * kPanelWidth + at);
        StoreF(hn::Mul(LoadF(d + at), ui), token + kY * kPanelWidth + at);
      }
    });
    if (args_.z.data == nullptr) return;
    const float* z =
        RowAsFloat(args_.z, row, col, width, s_.row + 2 * kPanelWidth);
    ForBatches<kScanBatch>(whole, [&](int64_t i, auto count) HWY_ATTR {
      constexpr int kN = count.value;
      VF x[kN], s[kN];
      for (int j = 0; j < kN; ++j) x[j] = LoadF(z + i + j * kLanes);
      Sigmoid(x, s);
      for (int j = 0; j < kN; ++j) {
        StoreF(hn::Mul(x[j], s[j]),
               token + kGate * kPanelWidth + i + j * kLanes);
      }
    });
  }

  // What the k-th loop over a group's states fetches ahead: the same place of
  // the next panel, u and dt_raw in one loop, z in another.
  HWY_INLINE Prefetcher Ahead(const ConstMatView& v, int64_t in_panel,
                              bool wanted) const {
    if (!wanted) return Prefetcher(s_.bc);
    return Prefetcher(v, row0_ + next_t_, std::min(kScanTile, rows_),
                      (next_group_ + in_panel) * kScanGroup, s_.bc);
  }

  HWY_INLINE void Save(int64_t t0, int64_t g) {
    const int64_t groups = ScanGroups(args_.channels);
    const int64_t tile = b_ * ScanTiles(args_.time) + t0 / kScanTile;
    float* to = out_.saved + (tile * groups + g) * GroupSize();
    const float* from = StateOf(g);
    if (reinterpret_cast<uintptr_t>(to) % 64 == 0) {
      for (int64_t i = 0; i < GroupSize(); i += kLanes) {
        StreamF(LoadF(from + i), to + i);
      }
    } else {
      std::memcpy(to, from, GroupSize() * sizeof(float));
    }
  }

  template <bool kReset>
  HWY_INLINE void Group(int64_t t0, int64_t rows, int64_t g, int64_t in_panel) {
    const float* a = s_.a + (g - g0_) * GroupSize();
    float* h = StateOf(g);
    const int64_t states = n_;
    const bool gated = args_.z.data != nullptr;
    const VectorWriter writer = writer_;
    for (int64_t lane = 0; lane < kScanGroup; lane += kLanes) {
      float* token = s_.token + in_panel * kScanGroup + lane;
      const float* bc = s_.bc;
      const uint32_t* keep = s_.keep;
      const int64_t col = g * kScanGroup + lane;
      const int64_t left = args_.channels - col;
      const int64_t row = row0_ + t0;
      ForStateBlocks<kStateBlock>(states, [&](int64_t n, auto size) HWY_ATTR {
        constexpr int kBlock = size.value;
        const int64_t at = n * kScanGroup + lane;
        const bool first = lane == 0 && n == 0;
        const bool last = lane == 0 && n + kBlock >= states;
        if (first && last) Ahead(args_.z, in_panel, true).Burst(rows);
        const Prefetcher ahead0 = first ? Ahead(args_.u, in_panel, true)
                                        : Ahead(args_.z, in_panel, last);
        // Rows that cannot bypass the caches had better be there.
        const bool second =
            lane == 0 && n == kBlock && !writer.stream && !writer.lines;
        const Prefetcher ahead1 =
            second ? Prefetcher(writer.view, row, kScanTile, col, s_.bc)
                   : Ahead(args_.dt_raw, in_panel, first);
        if (n + kBlock < states) {
          ForwardBlock<kReset, kBlock>(
              a + at, h + at, token, bc + n, states, keep, rows, ahead0, ahead1,
              [&](int64_t t, VF y) HWY_ATTR {
                StoreF(y, token + t * kForwardRow + kY * kPanelWidth);
              });
        } else {
          ForwardBlock<kReset, kBlock>(
              a + at, h + at, token, bc + n, states, keep, rows, ahead0, ahead1,
              [&](int64_t t, VF y) HWY_ATTR {
                if (gated) {
                  y = hn::Mul(
                      y, LoadF(token + t * kForwardRow + kGate * kPanelWidth));
                }
                if (writer.lines) {
                  StoreF(y, token + t * kForwardRow + kY * kPanelWidth);
                } else {
                  writer.Write(y, row + t, col, left);
                }
              });
        }
      });
    }
  }

  const SelectiveScanArgs& args_;
  const SelectiveScanForwardOut& out_;
  const int64_t b_, g0_, g1_, n_, row0_;
  ForwardScratch s_;
  const VectorWriter writer_;
  int64_t next_t_ = 0, next_group_ = 0, rows_ = 0;  // The next panel.
};

void ScanForward(const SelectiveScanArgs& args,
                 const SelectiveScanForwardOut& out) {
  const int64_t groups = ScanGroups(args.channels);
  ParallelRanges(
      args.batch * groups, [&](int64_t begin, int64_t end, int) HWY_ATTR {
        const FlushDenormals flush;
        ForScanSegments(groups, begin, end,
                        [&](int64_t b, int64_t g0, int64_t g1) HWY_ATTR {
                          ForwardSegment(args, out, b, g0, g1).Run();
                        });
        hwy::FlushStream();
      });
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {

HWY_EXPORT(ScanForward);

int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                               int64_t states) {
  return batch * ScanTiles(time) * ScanGroups(channels) * states * kScanGroup;
}

void SelectiveScanForward(const SelectiveScanArgs& args,
                          const SelectiveScanForwardOut& out) {
  CARRY_CHECK(args.batch >= 1 && args.time >= 1 && args.channels >= 1);
  CARRY_CHECK(args.states >= 1 && args.states <= 256);
  CARRY_CHECK(args.b.cols == args.states && args.c.cols == args.states);
  HWY_DYNAMIC_DISPATCH(ScanForward)(args, out);
}

}  // namespace carry
#endif  // HWY_ONCE
