// The instructions are written out, since compilers disagree about what their
// intrinsics read and write: GCC 12 lets the stores of a configuration vanish,
// of which its ldtilecfg seems to read 8 bytes.

#include "kernels/cpu/amx_tiles.h"

#include "hwy/base.h"
#include "kernels/check.h"

#if HWY_ARCH_X86_64 && defined(__linux__)

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

HWY_PUSH_ATTRIBUTES("amx-tile,amx-bf16")
namespace carry {
namespace {

template <int kTile>
HWY_INLINE void LoadTile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2"
               :
               : "r"(from), "r"(stride), "i"(kTile)
               : "memory");
}

template <int kTile>
HWY_INLINE void StoreTile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)"
               :
               : "r"(to), "r"(stride), "i"(kTile)
               : "memory");
}

template <int kTile>
HWY_INLINE void ClearTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}

template <int kC, int kA, int kB>
HWY_INLINE void AddProduct() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0"
               :
               : "i"(kC), "i"(kA), "i"(kB));
}

// c is in registers 0 to kR kC - 1, row by row.
template <int kR, int kC, int kI = 0>
HWY_INLINE void Begin(const TileProduct& p) {
  if constexpr (kI < kR * kC) {
    if (p.clear) {
      ClearTile<kI>();
    } else {
      LoadTile<kI>(p.c[kI / kC][kI % kC], p.stride[kI / kC][kI % kC]);
    }
    Begin<kR, kC, kI + 1>(p);
  }
}
template <int kR, int kC, int kI = 0>
HWY_INLINE void End(const TileProduct& p) {
  if constexpr (kI < kR * kC) {
    StoreTile<kI>(p.c[kI / kC][kI % kC], p.stride[kI / kC][kI % kC]);
    End<kR, kC, kI + 1>(p);
  }
}

// Two registers are left for a and b. Each of the other tiles meets the one
// that the last product used: a goes down the rows of c, and back up for the
// next column. A tile that is loaded again comes from L1.
template <int kR, int kC, int kI = 0>
HWY_INLINE void Step(const char* a, const char* b) {
  if constexpr (kI < kR * kC) {
    constexpr int kJ = kI / kR, kDown = kI % kR;
    constexpr int kRow = kJ % 2 == 0 ? kDown : kR - 1 - kDown;
    if constexpr (kDown == 0) LoadTile<7>(b + kJ * kTileBytes, 64);
    if constexpr (kDown != 0 || kJ == 0) {
      LoadTile<6>(a + kRow * kTileBytes, 64);
    }
    AddProduct<kRow * kC + kJ, 6, 7>();
    Step<kR, kC, kI + 1>(a, b);
  }
}

HWY_INLINE void Fetch(const TileProduct& p, int64_t row) {
  for (int64_t i = 0; i < p.fetches; ++i) {
    const char* at = p.fetch[i] + row * p.fetch_stride[i];
    for (int64_t line = 0; line < p.lines; ++line) {
      __builtin_prefetch(at + line * 64, 0, 2);
    }
  }
}

template <int kR, int kC>
void Multiply(const TileProduct& p) {
  Begin<kR, kC>(p);
  const char* a = p.a;
  const char* b = p.b;
  for (int64_t s = 0; s < p.steps; ++s) {
    Step<kR, kC>(a, b);
    a += p.a_stride;
    b += p.b_stride;
    if (s < kTileRows) Fetch(p, s);
  }
  End<kR, kC>(p);
}

// Registers of MultiplyRows: c in 0 to 3, then a and b of whole steps, and of
// the last one where it has fewer than 32 values of k.
constexpr int kRowsA = 4, kRowsB = 5, kLastA = 6, kLastB = 7;

template <int kR, int kC, int kA, int kB>
HWY_INLINE void RowStep(const RowProduct& p, int64_t step) {
  const char* a = p.a + step * kTileTokens * 2;
  const char* b = p.b + step * kTileBytes;
  const int64_t down = kTileRows * p.a_stride;
  LoadTile<kA>(a, p.a_stride);
  LoadTile<kB>(b, 64);
  AddProduct<0, kA, kB>();
  if constexpr (kR == 2) {
    LoadTile<kA>(a + down, p.a_stride);
    AddProduct<kC, kA, kB>();
  }
  if constexpr (kC == 2) {
    LoadTile<kB>(b + p.b_stride, 64);
    AddProduct<(kR == 2 ? 3 : 1), kA, kB>();
    if constexpr (kR == 2) {
      LoadTile<kA>(a, p.a_stride);
      AddProduct<1, kA, kB>();
    }
  }
}

template <int kI, int kN>
HWY_INLINE void ClearTiles() {
  if constexpr (kI < kN) {
    ClearTile<kI>();
    ClearTiles<kI + 1, kN>();
  }
}
template <int kI, int kN>
HWY_INLINE void StoreTiles(float* c) {
  if constexpr (kI < kN) {
    StoreTile<kI>(c + kI * kTileFloats, 64);
    StoreTiles<kI + 1, kN>(c);
  }
}

template <int kR, int kC>
void MultiplyRowsOf(const RowProduct& p) {
  ClearTiles<0, kR * kC>();
  const int64_t whole = p.depth / kTileTokens;
  for (int64_t s = 0; s < whole; ++s) RowStep<kR, kC, kRowsA, kRowsB>(p, s);
  if (p.depth % kTileTokens != 0) {
    RowStep<kR, kC, kLastA, kLastB>(p, whole);
  }
  StoreTiles<0, kR * kC>(p.c);
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

bool AskForAmx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  constexpr unsigned kBf16 = 1u << 22, kTile = 1u << 24;
  if ((d & kBf16) == 0 || (d & kTile) == 0) return false;
  // ARCH_REQ_XCOMP_PERM for XFEATURE_XTILEDATA, once a process.
  return syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

}  // namespace

bool HasAmxBf16() {
  static const bool has = AskForAmx();
  return has;
}

TileScope::TileScope(int64_t depth) {
  TileConfig config;
  const auto last = static_cast<uint8_t>(depth % kTileTokens);
  if (last != 0) {
    config.row_bytes[kLastA] = static_cast<uint16_t>(last * 2);
    config.rows[kLastB] = last / 2;
  }
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}

TileScope::~TileScope() { asm volatile("tilerelease" : : : "memory"); }

void MultiplyTiles(int64_t rows, int64_t columns, const TileProduct& product) {
  using Function = void (*)(const TileProduct&);
  static constexpr Function kFunctions[3][3] = {
      {Multiply<1, 1>, Multiply<1, 2>, Multiply<1, 3>},
      {Multiply<2, 1>, Multiply<2, 2>, Multiply<2, 3>},
      {Multiply<3, 1>, Multiply<3, 2>, nullptr}};
  kFunctions[rows - 1][columns - 1](product);
}

void MultiplyRows(int64_t a_tiles, int64_t b_tiles, const RowProduct& product) {
  if (a_tiles == 2) {
    b_tiles == 2 ? MultiplyRowsOf<2, 2>(product)
                 : MultiplyRowsOf<2, 1>(product);
  } else {
    b_tiles == 2 ? MultiplyRowsOf<1, 2>(product)
                 : MultiplyRowsOf<1, 1>(product);
  }
}

}  // namespace carry
HWY_POP_ATTRIBUTES

#else

namespace carry {

bool HasAmxBf16() { return false; }
TileScope::TileScope(int64_t) {}
TileScope::~TileScope() = default;
void MultiplyTiles(int64_t, int64_t, const TileProduct&) { CARRY_CHECK(false); }
void MultiplyRows(int64_t, int64_t, const RowProduct&) { CARRY_CHECK(false); }

}  // namespace carry

#endif
