// The scan's forward pass. See selective_scan_layout.h for the layouts.
//
// A thread owns a range of channel groups and goes tile by tile through time.
// In a tile, a panel of up to 8 groups is prepared row by row (softplus, gate:
// contiguous reads), then each group runs its 16 tokens with `kStateBlock`
// states in registers, then rows are written. With AVX-512 the inner loop is 11
// uops for 16 states-times-channels: 8 for exp(dt A), and dt u B, h, y.

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

struct ForwardScratch {
  float* a;     // [ng][N][16], in units of log2
  float* h;     // [ng][N][16]
  float* bias;  // [ng * 16]
  float* d;     // [ng * 16]
  float* b;     // [kScanTile][N]
  float* c;     // [kScanTile][N]
  float* dt;    // [kScanTile][kPanelWidth], as all below
  float* dx;    // dt u
  float* y;     // starts as D u
  float* gate;  // silu(z)
  float* row;   // [3][kPanelWidth], converted rows
  uint32_t keep[kScanTile];

  static int64_t Size(int64_t ng, int64_t states) {
    return 2 * ng * states * kScanGroup + 2 * ng * kScanGroup +
           2 * Scratch::Rounded(kScanTile * states) +
           (4 * kScanTile + 3) * kPanelWidth;
  }
  ForwardScratch(int64_t ng, int64_t states) {
    Scratch s(ScratchSlot::kWorker, Size(ng, states));
    a = s.Take(ng * states * kScanGroup);
    h = s.Take(ng * states * kScanGroup);
    bias = s.Take(ng * kScanGroup);
    d = s.Take(ng * kScanGroup);
    b = s.Take(kScanTile * states);
    c = s.Take(kScanTile * states);
    dt = s.Take(kScanTile * kPanelWidth);
    dx = s.Take(kScanTile * kPanelWidth);
    y = s.Take(kScanTile * kPanelWidth);
    gate = s.Take(kScanTile * kPanelWidth);
    row = s.Take(3 * kPanelWidth);
  }
};

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
        stream_(CanStream(out.out.data, out.out.dtype, out.out.stride)) {}

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
    LoadTile(args_.b, row0_ + t0, rows, s_.b);
    LoadTile(args_.c, row0_ + t0, rows, s_.c);
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
    SetPrefetch(t0, rows, g_end);
    for (int64_t i = g; i < g_end; ++i) {
      if (out_.saved != nullptr) Save(t0, i);
      if (reset) {
        Group<true>(i, i - g, rows);
      } else {
        Group<false>(i, i - g, rows);
      }
    }
    for (int64_t t = 0; t < rows; ++t) {
      float* y = s_.y + t * kPanelWidth;
      if (args_.z.data != nullptr) {
        const float* gate = s_.gate + t * kPanelWidth;
        for (int64_t i = 0; i < WholeGroups(width); i += kLanes) {
          StoreF(hn::Mul(LoadF(y + i), LoadF(gate + i)), y + i);
        }
      }
      StoreRow(y, out_.out, row0_ + t0 + t, col, width, stream_);
    }
  }

  // dt, dx, D u and the gate of one row of a panel.
  HWY_INLINE void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(args_.dt_raw, row, col, width, s_.row + kPanelWidth);
    const float* bias = s_.bias + col - g0_ * kScanGroup;
    const float* d = s_.d + col - g0_ * kScanGroup;
    float* dts = s_.dt + t * kPanelWidth;
    float* dxs = s_.dx + t * kPanelWidth;
    float* ys = s_.y + t * kPanelWidth;
    ForBatches<kScanBatch>(
        WholeGroups(width), [&](int64_t i, auto count) HWY_ATTR {
          constexpr int kN = count.value;
          VF x[kN], e[kN], dt[kN];
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            x[j] = hn::Add(LoadF(raw + at), LoadF(bias + at));
          }
          ExpMinusAbs(x, e);
          SoftplusFrom(x, e, dt);
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            const VF ui = LoadF(u + at);
            StoreF(dt[j], dts + at);
            StoreF(hn::Mul(dt[j], ui), dxs + at);
            StoreF(hn::Mul(LoadF(d + at), ui), ys + at);
          }
        });
    if (args_.z.data == nullptr) return;
    const float* z =
        RowAsFloat(args_.z, row, col, width, s_.row + 2 * kPanelWidth);
    float* gates = s_.gate + t * kPanelWidth;
    ForBatches<kScanBatch>(
        WholeGroups(width), [&](int64_t i, auto count) HWY_ATTR {
          constexpr int kN = count.value;
          VF x[kN], s[kN];
          for (int j = 0; j < kN; ++j) x[j] = LoadF(z + i + j * kLanes);
          Sigmoid(x, s);
          for (int j = 0; j < kN; ++j) {
            StoreF(hn::Mul(x[j], s[j]), gates + i + j * kLanes);
          }
        });
  }

  void SetPrefetch(int64_t t0, int64_t rows, int64_t next_group) {
    int64_t t = t0;
    if (next_group >= g1_) {
      next_group = g0_;
      t += kScanTile;
      rows = std::min(kScanTile, args_.time - t);
    }
    const int64_t col = next_group * kScanGroup;
    next_[0] = Prefetcher::Of(args_.u, row0_ + t, rows, col);
    next_[1] = Prefetcher::Of(args_.dt_raw, row0_ + t, rows, col);
    next_[2] = Prefetcher::Of(args_.z, row0_ + t, rows, col);
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
  HWY_INLINE void Group(int64_t g, int64_t in_panel, int64_t rows) {
    const float* a = s_.a + (g - g0_) * GroupSize();
    float* h = StateOf(g);
    for (int64_t lane = 0; lane < kScanGroup; lane += kLanes) {
      const int64_t at = in_panel * kScanGroup + lane;
      const bool fetch = lane == 0;
      ForStateBlocks<kStateBlock>(n_, [&](int64_t n, auto size) HWY_ATTR {
        Block<kReset, size.value>(a + lane, h + lane, n, at, rows,
                                  fetch ? in_panel * 64 : -1);
      });
    }
  }

  // kBlock states from n on, of one vector of channels, over the tile. Whatever
  // the loop needs of `this` is copied first: a vector store might change it,
  // as far as the compiler knows.
  template <bool kReset, int kBlock>
  HWY_INLINE void Block(const float* HWY_RESTRICT a_at, float* h_at, int64_t n,
                        int64_t at, int64_t rows, int64_t fetch) {
    const float* HWY_RESTRICT dts = s_.dt + at;
    const float* HWY_RESTRICT dxs = s_.dx + at;
    float* HWY_RESTRICT ys = s_.y + at;
    const float* HWY_RESTRICT bs = s_.b + n;
    const float* HWY_RESTRICT cs = s_.c + n;
    const uint32_t* HWY_RESTRICT keep = s_.keep;
    const int64_t states = n_;
    const bool first = fetch >= 0 && n == 0;
    const bool last = fetch >= 0 && n + kBlock >= states;
    const Prefetcher ahead[3] = {next_[0], next_[1], next_[2]};
    a_at += n * kScanGroup;
    h_at += n * kScanGroup;
    VF a[kBlock], h[kBlock];
    for (int j = 0; j < kBlock; ++j) {
      a[j] = LoadF(a_at + j * kScanGroup);
      h[j] = LoadF(h_at + j * kScanGroup);
    }
    for (int64_t t = 0; t < rows; ++t) {
      const VF dt = LoadF(dts);
      const VF dx = LoadF(dxs);
      VF y = LoadF(ys);
      if (first) {
        ahead[0].Touch(t, fetch);
        ahead[1].Touch(t, fetch);
      }
      if (last) ahead[2].Touch(t, fetch);
      VF decay[kBlock];
      for (int j = 0; j < kBlock; ++j) decay[j] = hn::Mul(dt, a[j]);
      Exp2NonPositive(decay);
      for (int j = 0; j < kBlock; ++j) {
        if constexpr (kReset) {
          decay[j] = hn::And(decay[j], KeepMask(keep + t));
          h[j] = hn::And(h[j], KeepMask(keep + t));
        }
        h[j] = hn::MulAdd(decay[j], h[j], hn::Mul(dx, Set(bs[j])));
        y = hn::MulAdd(h[j], Set(cs[j]), y);
      }
      StoreF(y, ys);
      dts += kPanelWidth;
      dxs += kPanelWidth;
      ys += kPanelWidth;
      bs += states;
      cs += states;
    }
    for (int j = 0; j < kBlock; ++j) StoreF(h[j], h_at + j * kScanGroup);
  }

  const SelectiveScanArgs& args_;
  const SelectiveScanForwardOut& out_;
  const int64_t b_, g0_, g1_, n_, row0_;
  ForwardScratch s_;
  const bool stream_;
  Prefetcher next_[3];
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
