// The inner loops of the scan's backward pass, over one tile of a few vectors
// of channels.
//
//   g = dy C + carry;  dB += g dx;  ddx += g B;  p = g q;  ddt += p A;
//   dA += p dt;  carry = g a
//
// with a the decay and q = a h_{t-1}. dC = sum_e dy h, where h = dx B + q, is
// dC += dy q here and, once per token, dC += B sum_e(dy dx).

#if defined(CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#undef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#else
#define CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
#endif

#include "kernels/cpu/scratch.h"
#include "kernels/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// Groups that are prepared together: 64 channels. What the inner loops touch
// of a panel has to fit the L1 cache beside the sums.
constexpr int64_t kBackPanel = 4;
constexpr int64_t kBackWidth = kBackPanel * kScanGroup;
// States of a block, and vectors of channels that run back together so that
// they share the loads and stores of dB and dC: 2 x 8 vectors of carries and dA
// fit 32 registers, 2 x 4 fit 16.
constexpr int kBackBlock = 4;
constexpr int kBackVectors = kStateBlock == 8 ? 2 : 1;

struct BackwardScratch {
  float* a;      // [ng][N][16], in units of log2
  float* carry;  // [ng][N][16]: gradient that enters from the right
  float* bias;   // [ng * 16]
  float* d;      // [ng * 16]
  float* b;      // [kScanTile][N]
  float* c;      // [kScanTile][N]
  float* sum_b;  // [kScanTile][N][kLanes]
  float* sum_c;  // [kScanTile][N][kLanes]
  float* dydx;   // [kScanTile][kLanes]
  float* decay;  // [kScanTile][kBackVectors][kBackBlock][kLanes]
  float* q;      // [kScanTile][kBackVectors][kBackBlock][kLanes]
  float* dt;     // [kScanTile][kBackWidth], as all below
  float* dx;     // dt u
  float* dy;     // gradient of y before the gate
  float* y;      // y before the gate, without D u
  float* ddx;    // gradient of dx
  float* ddt;    // gradient of dt through a, over ln 2
  float* slope;  // sigmoid(dt_raw + bias)
  float* dgate;  // dout silu'(z)
  float* row;    // [4][kBackWidth], converted rows
  uint32_t keep[kScanTile];

  static constexpr int64_t kBlocks =
      kScanTile * kBackVectors * kBackBlock * kLanes;

  static int64_t Size(int64_t ng, int64_t n) {
    return 2 * ng * n * kScanGroup + 2 * ng * kScanGroup +
           2 * Scratch::Rounded(kScanTile * n) +
           2 * Scratch::Rounded(kScanTile * n * kLanes) +
           Scratch::Rounded(kScanTile * kLanes) +
           2 * Scratch::Rounded(kBlocks) + (8 * kScanTile + 4) * kBackWidth;
  }
  BackwardScratch(int64_t ng, int64_t n) {
    Scratch s(ScratchSlot::kWorker, Size(ng, n));
    a = s.Take(ng * n * kScanGroup);
    carry = s.Take(ng * n * kScanGroup);
    bias = s.Take(ng * kScanGroup);
    d = s.Take(ng * kScanGroup);
    b = s.Take(kScanTile * n);
    c = s.Take(kScanTile * n);
    sum_b = s.Take(kScanTile * n * kLanes);
    sum_c = s.Take(kScanTile * n * kLanes);
    dydx = s.Take(kScanTile * kLanes);
    decay = s.Take(kBlocks);
    q = s.Take(kBlocks);
    for (float** p : {&dt, &dx, &dy, &y, &ddx, &ddt, &slope, &dgate}) {
      *p = s.Take(kScanTile * kBackWidth);
    }
    row = s.Take(4 * kBackWidth);
  }
};

// What a vector of channels reads and updates of its own: its rows of
// [group][N][16], and its column in the panel.
struct ChannelVector {
  const float* a;
  const float* saved;
  float* carry;
  float* da;
  int64_t column;
};

// decay and q of states [n, n + kBlock) over the tile; y += C h, which starts
// from zero at n = 0. `slot` of kSlots in the order of decay and q.
template <bool kReset, int kBlock, int kSlots>
HWY_INLINE void Recompute(const BackwardScratch& s, const ChannelVector& v,
                          int slot, int64_t states, int64_t n, int64_t rows,
                          const Prefetcher& ahead0, const Prefetcher& ahead1,
                          int64_t ahead_byte) {
  const float* HWY_RESTRICT dts = s.dt + v.column;
  const float* HWY_RESTRICT dxs = s.dx + v.column;
  const float* HWY_RESTRICT bs = s.b + n;
  const float* HWY_RESTRICT cs = s.c + n;
  float* HWY_RESTRICT ys = s.y + v.column;
  float* HWY_RESTRICT decays = s.decay + slot * kBlock * kLanes;
  float* HWY_RESTRICT qs = s.q + slot * kBlock * kLanes;
  VF a[kBlock], h[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    a[j] = LoadF(v.a + (n + j) * kScanGroup);
    h[j] = LoadF(v.saved + (n + j) * kScanGroup);
  }
  for (int64_t t = 0; t < rows; ++t) {
    const VF dt = LoadF(dts);
    const VF dx = LoadF(dxs);
    VF y = n == 0 ? Zero() : LoadF(ys);
    ahead0.Touch(t, ahead_byte);
    ahead1.Touch(t, ahead_byte);
    VF decay[kBlock];
    for (int j = 0; j < kBlock; ++j) decay[j] = hn::Mul(dt, a[j]);
    Exp2NonPositive(decay);
    for (int j = 0; j < kBlock; ++j) {
      if constexpr (kReset) {
        decay[j] = hn::And(decay[j], KeepMask(s.keep + t));
        h[j] = hn::And(h[j], KeepMask(s.keep + t));
      }
      const VF q = hn::Mul(decay[j], h[j]);
      StoreF(decay[j], decays + j * kLanes);
      StoreF(q, qs + j * kLanes);
      h[j] = hn::MulAdd(dx, Set(bs[j]), q);
      y = hn::MulAdd(h[j], Set(cs[j]), y);
    }
    StoreF(y, ys);
    dts += kBackWidth;
    dxs += kBackWidth;
    ys += kBackWidth;
    bs += states;
    cs += states;
    decays += kSlots * kBlock * kLanes;
    qs += kSlots * kBlock * kLanes;
  }
}

// Back over the tile with the kSlots vectors that Recompute has prepared.
// finish(t, slot, ddx, ddt) is called with the sums over the states up to this
// block.
template <int kBlock, int kSlots, class Finish>
HWY_INLINE void Reverse(const BackwardScratch& s, const ChannelVector* v,
                        int64_t states, int64_t n, int64_t rows,
                        const Finish& finish) {
  const int64_t last = rows - 1;
  const float* HWY_RESTRICT bs = s.b + n + last * states;
  const float* HWY_RESTRICT cs = s.c + n + last * states;
  const float* HWY_RESTRICT decays = s.decay + last * kSlots * kBlock * kLanes;
  const float* HWY_RESTRICT qs = s.q + last * kSlots * kBlock * kLanes;
  float* HWY_RESTRICT sum_b = s.sum_b + (n + last * states) * kLanes;
  float* HWY_RESTRICT sum_c = s.sum_c + (n + last * states) * kLanes;
  VF carry[kSlots][kBlock], da[kSlots][kBlock];
  for (int i = 0; i < kSlots; ++i) {
    for (int j = 0; j < kBlock; ++j) {
      carry[i][j] = LoadF(v[i].carry + (n + j) * kScanGroup);
      da[i][j] = LoadF(v[i].da + (n + j) * kScanGroup);
    }
  }
  for (int64_t t = last; t >= 0; --t) {
    VF dt[kSlots], dx[kSlots], dy[kSlots], ddx[kSlots], ddt[kSlots];
    for (int i = 0; i < kSlots; ++i) {
      const int64_t at = t * kBackWidth + v[i].column;
      dt[i] = LoadF(s.dt + at);
      dx[i] = LoadF(s.dx + at);
      dy[i] = LoadF(s.dy + at);
      ddx[i] = n == 0 ? Zero() : LoadF(s.ddx + at);
      ddt[i] = n == 0 ? Zero() : LoadF(s.ddt + at);
    }
    for (int j = 0; j < kBlock; ++j) {
      VF to_b = LoadF(sum_b + j * kLanes);
      VF to_c = LoadF(sum_c + j * kLanes);
      for (int i = 0; i < kSlots; ++i) {
        const VF q = LoadF(qs + (i * kBlock + j) * kLanes);
        const VF g = hn::MulAdd(dy[i], Set(cs[j]), carry[i][j]);
        to_c = hn::MulAdd(dy[i], q, to_c);
        to_b = hn::MulAdd(g, dx[i], to_b);
        ddx[i] = hn::MulAdd(g, Set(bs[j]), ddx[i]);
        const VF p = hn::Mul(g, q);
        ddt[i] = hn::MulAdd(p, LoadF(v[i].a + (n + j) * kScanGroup), ddt[i]);
        da[i][j] = hn::MulAdd(p, dt[i], da[i][j]);
        carry[i][j] = hn::Mul(g, LoadF(decays + (i * kBlock + j) * kLanes));
      }
      StoreF(to_b, sum_b + j * kLanes);
      StoreF(to_c, sum_c + j * kLanes);
    }
    for (int i = 0; i < kSlots; ++i) finish(t, i, ddx[i], ddt[i]);
    bs -= states;
    cs -= states;
    decays -= kSlots * kBlock * kLanes;
    qs -= kSlots * kBlock * kLanes;
    sum_b -= states * kLanes;
    sum_c -= states * kLanes;
  }
  for (int i = 0; i < kSlots; ++i) {
    for (int j = 0; j < kBlock; ++j) {
      StoreF(carry[i][j], v[i].carry + (n + j) * kScanGroup);
      StoreF(da[i][j], v[i].da + (n + j) * kScanGroup);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
