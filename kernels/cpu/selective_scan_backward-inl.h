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

// Groups that are prepared together, at most. What is written of a panel should
// stay in the L1 cache until its outputs are, beside the sums and a block's
// chain: two groups. With few states in fp32 memory is the limit, and wants
// longer pieces of rows.
constexpr int64_t kBackPanel = 4;
constexpr int64_t kBackWidth = kBackPanel * kScanGroup;

// States of a block, and vectors of channels that run back together so that
// they share the loads and stores of dB and dC: 2 x 8 vectors of carries and dA
// fit 32 registers, 2 x 4 fit 16.
constexpr int kBackBlock = 4;
#if HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64
constexpr int kBackVectors = 2;
#else
constexpr int kBackVectors = 1;
#endif
constexpr int64_t kBackPair = kBackVectors * kLanes;

inline int64_t BackPanel(const SelectiveScanArgs& args) {
  const bool few = args.states <= 2 * kBackBlock;
  return args.u.dtype == DType::kF32 && few ? kBackPanel : 2;
}

// A token's row in scratch: arrays of kBackWidth, and a cache line so that the
// tokens of a channel do not share cache sets.
enum BackwardArray {
  kBackDt,
  kBackDx,     // dt u
  kBackDy,     // gradient of y before the gate
  kBackY,      // y before the gate, without D u
  kBackDdx,    // gradient of dx
  kBackDdt,    // gradient of dt through a, over ln 2
  kBackSlope,  // sigmoid(dt_raw + bias)
  kBackDgate,  // dout silu'(z)
  kBackArrays
};
constexpr int64_t kBackRow = kBackArrays * kBackWidth + kScanGroup;
// Decays and q of a token: [kBackVectors][kBackBlock][2][kLanes].
constexpr int64_t kBackChain = kBackVectors * kBackBlock * 2 * kLanes;

struct BackwardScratch {
  float* a;      // [ng][N][16], in units of log2
  float* carry;  // [ng][N][16]: gradient that enters from the right
  float* bias;   // [ng * 16]
  float* d;      // [ng * 16]
  float* bc;     // [kScanTile][2][N]
  float* sums;   // [kScanTile][N][2][kLanes]: dB, dC by lane
  float* dydx;   // [kScanTile][kLanes]
  float* chain;  // [kScanTile][kBackChain]
  float* token;  // [kScanTile][kBackRow]
  float* row;    // [4][kBackWidth], converted rows
  LineWriter lines[3];
  uint32_t keep[kScanTile];

  static int64_t Size(int64_t ng, int64_t n) {
    return 2 * ng * n * kScanGroup + 2 * ng * kScanGroup +
           Scratch::Rounded(2 * kScanTile * n) +
           Scratch::Rounded(2 * kScanTile * n * kLanes) +
           Scratch::Rounded(kScanTile * kLanes) +
           Scratch::Rounded(kScanTile * kBackChain) + kScanTile * kBackRow +
           4 * kBackWidth + 3 * LineWriter::kTails;
  }
  BackwardScratch(int64_t ng, int64_t n) {
    Scratch s(ScratchSlot::kWorker, Size(ng, n));
    a = s.Take(ng * n * kScanGroup);
    carry = s.Take(ng * n * kScanGroup);
    bias = s.Take(ng * kScanGroup);
    d = s.Take(ng * kScanGroup);
    bc = s.Take(2 * kScanTile * n);
    sums = s.Take(2 * kScanTile * n * kLanes);
    dydx = s.Take(kScanTile * kLanes);
    chain = s.Take(kScanTile * kBackChain);
    token = s.Take(kScanTile * kBackRow);
    row = s.Take(4 * kBackWidth);
    for (LineWriter& l : lines) l.tails = s.Take(LineWriter::kTails);
  }
};

// Of states [n, n + kBlock) of one vector of channels, [kBlock][16] each.
struct StateRows {
  const float* a;
  const float* saved;
  float* carry;
  float* da;
};

// Decay and q of a block of states over the tile; y += C h, which starts from
// zero if kFirst. `token`, `bc`, `chain` point at the first token's.
template <bool kReset, bool kFirst, int kBlock>
HWY_INLINE void Recompute(const StateRows& v, float* HWY_RESTRICT token,
                          const float* HWY_RESTRICT bc, int64_t states,
                          float* HWY_RESTRICT chain, const uint32_t* keep,
                          int64_t rows, Prefetcher ahead0, Prefetcher ahead1) {
  VF a[kBlock], h[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    a[j] = LoadF(v.a + j * kScanGroup);
    h[j] = LoadF(v.saved + j * kScanGroup);
  }
  const int64_t bc_step = 2 * states;
  for (int64_t t = 0; t < rows; ++t) {
    const VF dt = LoadF(token + kBackDt * kBackWidth);
    const VF dx = LoadF(token + kBackDx * kBackWidth);
    VF y = kFirst ? Zero() : LoadF(token + kBackY * kBackWidth);
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
      const VF q = hn::Mul(decay[j], h[j]);
      StoreF(decay[j], chain + 2 * j * kLanes);
      StoreF(q, chain + (2 * j + 1) * kLanes);
      h[j] = hn::MulAdd(dx, Set(bc[j]), q);
      y = hn::MulAdd(h[j], Set(bc[states + j]), y);
    }
    StoreF(y, token + kBackY * kBackWidth);
    token += kBackRow;
    bc += bc_step;
    chain += kBackChain;
  }
}

// Back over the tile with the kSlots neighbouring vectors that Recompute has
// prepared; ddx and ddt of the tokens are sums over the states so far. `token`,
// `bc`, `chain`, `sums` point at the last token's.
template <bool kFirst, int kBlock, int kSlots>
HWY_INLINE void Reverse(const StateRows* v, float* HWY_RESTRICT token,
                        const float* HWY_RESTRICT bc, int64_t states,
                        const float* HWY_RESTRICT chain,
                        float* HWY_RESTRICT sums, int64_t rows) {
  VF carry[kSlots][kBlock], da[kSlots][kBlock];
  const float* HWY_RESTRICT a[kSlots];
  for (int i = 0; i < kSlots; ++i) {
    a[i] = v[i].a;
    for (int j = 0; j < kBlock; ++j) {
      carry[i][j] = LoadF(v[i].carry + j * kScanGroup);
      da[i][j] = LoadF(v[i].da + j * kScanGroup);
    }
  }
  const int64_t step = 2 * states;
  for (int64_t left = rows; left > 0; --left) {
    VF dt[kSlots], dx[kSlots], dy[kSlots], ddx[kSlots], ddt[kSlots];
    for (int i = 0; i < kSlots; ++i) {
      const float* HWY_RESTRICT at = token + i * kLanes;
      dt[i] = LoadF(at + kBackDt * kBackWidth);
      dx[i] = LoadF(at + kBackDx * kBackWidth);
      dy[i] = LoadF(at + kBackDy * kBackWidth);
      ddx[i] = kFirst ? Zero() : LoadF(at + kBackDdx * kBackWidth);
      ddt[i] = kFirst ? Zero() : LoadF(at + kBackDdt * kBackWidth);
    }
    for (int j = 0; j < kBlock; ++j) {
      VF sum_b = LoadF(sums + 2 * j * kLanes);
      VF sum_c = LoadF(sums + (2 * j + 1) * kLanes);
      for (int i = 0; i < kSlots; ++i) {
        const float* HWY_RESTRICT link = chain + 2 * (i * kBlock + j) * kLanes;
        const VF q = LoadF(link + kLanes);
        const VF g = hn::MulAdd(dy[i], Set(bc[states + j]), carry[i][j]);
        sum_c = hn::MulAdd(dy[i], q, sum_c);
        sum_b = hn::MulAdd(g, dx[i], sum_b);
        ddx[i] = hn::MulAdd(g, Set(bc[j]), ddx[i]);
        const VF p = hn::Mul(g, q);
        ddt[i] = hn::MulAdd(p, LoadF(a[i] + j * kScanGroup), ddt[i]);
        da[i][j] = hn::MulAdd(p, dt[i], da[i][j]);
        carry[i][j] = hn::Mul(g, LoadF(link));
      }
      StoreF(sum_b, sums + 2 * j * kLanes);
      StoreF(sum_c, sums + (2 * j + 1) * kLanes);
    }
    for (int i = 0; i < kSlots; ++i) {
      StoreF(ddx[i], token + i * kLanes + kBackDdx * kBackWidth);
      StoreF(ddt[i], token + i * kLanes + kBackDdt * kBackWidth);
    }
    token -= kBackRow;
    bc -= step;
    chain -= kBackChain;
    sums -= step * kLanes;
  }
  for (int i = 0; i < kSlots; ++i) {
    for (int j = 0; j < kBlock; ++j) {
      StoreF(carry[i][j], v[i].carry + j * kScanGroup);
      StoreF(da[i][j], v[i].da + j * kScanGroup);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_INL_H_
