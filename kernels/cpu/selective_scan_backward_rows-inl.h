// What the states do not enter in the scan's backward pass: rows of a panel on
// their way into scratch before the loops over states, and the outputs after
// them.

#if defined(CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_ROWS_INL_H_) == \
    defined(HWY_TARGET_TOGGLE)
#ifdef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_ROWS_INL_H_
#undef CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_ROWS_INL_H_
#else
#define CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_ROWS_INL_H_
#endif

#include <algorithm>

#include "kernels/cpu/selective_scan_backward-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

template <class T>
HWY_INLINE T* ElementOf(const ConstMatView& v, int64_t row, int64_t col) {
  return static_cast<T*>(const_cast<void*>(v.data)) + row * v.stride + col;
}

// Of channels from group g0 on; sums over time are added to dd and dbias, which
// begin with that group.
class BackwardRows {
 public:
  BackwardRows(const SelectiveScanArgs& args,
               const SelectiveScanBackwardArgs& grad,
               const BackwardScratch& scratch, int64_t g0, float* dd,
               float* dbias)
      : args_(args),
        grad_(grad),
        s_(scratch),
        col0_(g0 * kScanGroup),
        dd_(dd),
        dbias_(dbias),
        du_(grad.du),
        ddt_(grad.ddt_raw),
        dz_(args.z.data != nullptr ? grad.dz : MatView()),
        chunk_((kScanTile * kBackBlock + kBackVectors * args.states - 1) /
               (kBackVectors * args.states)),
        one_type_(args.z.data != nullptr && args.z.dtype == args.u.dtype &&
                  args.dt_raw.dtype == args.u.dtype &&
                  grad.dout.dtype == args.u.dtype),
        streams_(one_type_ && CanStreamPairs(grad.du, args.u) &&
                 CanStreamPairs(grad.ddt_raw, args.u) &&
                 CanStreamPairs(grad.dz, args.u)) {}

  // Row t of a panel's tile, at [row, col) of the matrices, into scratch.
  void Prepare(int64_t t, int64_t row, int64_t col, int64_t width) {
    FinishUpTo(t + 1);  // Of the panel before, whose place it takes.
    if (args_.z.data != nullptr) {
      PrepareRow<true>(t, row, col, width);
    } else {
      PrepareRow<false>(t, row, col, width);
    }
  }

  // Whether PreparePair will do for panels of that width.
  bool TakesPairs(int64_t width) const {
    // With shorter vectors a pair is no whole group.
    return one_type_ && kBackPair == 2 * kScanGroup && width == kBackPair;
  }
  // Prepare of rows t and t + 1, which fill a batch where one row of two
  // vectors does not; T: the type of all inputs.
  template <class T>
  HWY_INLINE void PreparePair(int64_t t, int64_t row, int64_t col) {
    FinishUpTo(t + 2);
    constexpr int kSlots = kBackVectors, kN = 2 * kSlots;
    const int64_t channel = col - col0_;
    const float* bias = s_.bias + channel;
    float* dd = dd_ + channel;
    const T *u[2], *raw[2], *z[2], *dout[2];
    for (int r = 0; r < 2; ++r) {
      u[r] = ElementOf<const T>(args_.u, row + r, col);
      raw[r] = ElementOf<const T>(args_.dt_raw, row + r, col);
      z[r] = ElementOf<const T>(args_.z, row + r, col);
      dout[r] = ElementOf<const T>(grad_.dout, row + r, col);
    }
    VF x[kN], zs[kN], dy[kN], ui[kN];
    for (int j = 0; j < kN; ++j) {
      const int r = j / kSlots, at = j % kSlots * kLanes;
      x[j] = hn::Add(LoadF(raw[r] + at), LoadF(bias + at));
      zs[j] = LoadF(z[r] + at);
      dy[j] = LoadF(dout[r] + at);
    }
    VF dt[kN], slope[kN], s[kN];
    SoftplusAndSigmoid<true>(x, dt, slope, zs, s);
    float* token[kN];
    for (int j = 0; j < kN; ++j) {
      token[j] = s_.token + (t + j / kSlots) * kBackRow + j % kSlots * kLanes;
      ui[j] = LoadF(u[j / kSlots] + j % kSlots * kLanes);
    }
    ApplyGate(zs, s, dy, token);
    VF dydx[2] = {LoadF(s_.dydx + t * kLanes),
                  LoadF(s_.dydx + (t + 1) * kLanes)};
    VF dds[kSlots];
    for (int k = 0; k < kSlots; ++k) dds[k] = LoadF(dd + k * kLanes);
    for (int j = 0; j < kN; ++j) {
      const VF dx = StoreToken(dt[j], ui[j], dy[j], slope[j], token[j]);
      dydx[j / kSlots] = hn::MulAdd(dy[j], dx, dydx[j / kSlots]);
      dds[j % kSlots] = hn::MulAdd(dy[j], ui[j], dds[j % kSlots]);
    }
    for (int r = 0; r < 2; ++r) StoreF(dydx[r], s_.dydx + (t + r) * kLanes);
    for (int k = 0; k < kSlots; ++k) StoreF(dds[k], dd + k * kLanes);
  }

  // `slots` vectors from `token` in scratch are done: rows [row, row + rows) of
  // the matrices from column col.
  void Add(int64_t row, int64_t rows, int64_t col, int slots, float* token) {
    FinishUpTo(pending_.rows);
    pending_ = {row, rows, 0, col, slots, token};
  }

  // Writes a few of those rows; called twice a block of states. The memory
  // takes a line past the caches in ten cycles, and holds a dozen.
  HWY_INLINE void FinishSome() { FinishUpTo(pending_.next + chunk_); }
  void FinishAll() { FinishUpTo(pending_.rows); }

  // Whether something goes through LineWriter.
  bool HasLines() const { return du_.lines || ddt_.lines || dz_.lines; }
  // Writes that of a panel whose vectors have been added: columns
  // [col, col + width) of rows [row, row + rows).
  HWY_NOINLINE void WriteLines(int64_t row, int64_t rows, int64_t col,
                               int64_t width, bool first, bool last) {
    FinishAll();
    const VectorWriter* const writers[] = {&du_, &ddt_, &dz_};
    constexpr BackwardArray kArrays[] = {kBackDdx, kBackDdt, kBackDgate};
    for (int i = 0; i < 3; ++i) {
      if (!writers[i]->lines) continue;
      for (int64_t t = 0; t < rows; ++t) {
        s_.lines[i].Write(writers[i]->view, t, row + t, col, width,
                          s_.token + t * kBackRow + kArrays[i] * kBackWidth,
                          first, last);
      }
    }
  }

  const VectorWriter& du() const { return du_; }
  const VectorWriter& ddt() const { return ddt_; }
  const VectorWriter& dz() const { return dz_; }

 private:
  // Whether vectors of kBackVectors can be written past the caches as lines.
  static bool CanStreamPairs(const MatView& v, const ConstMatView& like) {
    const bool whole = v.dtype == DType::kF32 || kBackPair * 2 % 64 == 0;
    return whole && v.dtype == like.dtype && CanStreamLines<kBackVectors>(v);
  }

  // dt, dx, dy and the slope of a vector into its token. dx is the result.
  static HWY_INLINE VF StoreToken(VF dt, VF u, VF dy, VF slope, float* token) {
    const VF dx = hn::Mul(dt, u);
    StoreF(dt, token + kBackDt * kBackWidth);
    StoreF(dx, token + kBackDx * kBackWidth);
    StoreF(dy, token + kBackDy * kBackWidth);
    StoreF(slope, token + kBackSlope * kBackWidth);
    return dx;
  }

  // dgate := dy silu'(z), into the tokens, and dy := dy silu(z); s is the
  // sigmoid of z.
  template <int kN>
  static HWY_INLINE void ApplyGate(const VF (&z)[kN], const VF (&s)[kN],
                                   VF (&dy)[kN], float* const* token) {
    for (int j = 0; j < kN; ++j) {
      const VF gate = hn::Mul(z[j], s[j]);
      // silu' = s + silu (1 - s)
      const VF slope = hn::MulAdd(gate, hn::Sub(Set(1.0f), s[j]), s[j]);
      StoreF(hn::Mul(dy[j], slope), token[j] + kBackDgate * kBackWidth);
      dy[j] = hn::Mul(dy[j], gate);
    }
  }

  template <bool kGate>
  HWY_INLINE void PrepareRow(int64_t t, int64_t row, int64_t col,
                             int64_t width) {
    const float* u = RowAsFloat(args_.u, row, col, width, s_.row);
    const float* raw =
        RowAsFloat(args_.dt_raw, row, col, width, s_.row + kBackWidth);
    const float* dout =
        RowAsFloat(grad_.dout, row, col, width, s_.row + 2 * kBackWidth);
    const float* z =
        kGate ? RowAsFloat(args_.z, row, col, width, s_.row + 3 * kBackWidth)
              : nullptr;
    const int64_t channel = col - col0_;
    const float* bias = s_.bias + channel;
    float* dd = dd_ + channel;
    float* HWY_RESTRICT tokens = s_.token + t * kBackRow;
    VF dydx = LoadF(s_.dydx + t * kLanes);
    ForBatches<kScanBatch>(
        WholeGroups(width), [&](int64_t i, auto count) HWY_ATTR {
          constexpr int kN = count.value;
          VF x[kN], dt[kN], slope[kN], dy[kN];
          float* token[kN];
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            token[j] = tokens + at;
            x[j] = hn::Add(LoadF(raw + at), LoadF(bias + at));
            dy[j] = LoadF(dout + at);
          }
          if constexpr (kGate) {
            VF zs[kN], s[kN];
            for (int j = 0; j < kN; ++j) zs[j] = LoadF(z + i + j * kLanes);
            SoftplusAndSigmoid<true>(x, dt, slope, zs, s);
            ApplyGate(zs, s, dy, token);
          } else {
            Softplus<true>(x, dt, slope);
          }
          for (int j = 0; j < kN; ++j) {
            const int64_t at = i + j * kLanes;
            const VF ui = LoadF(u + at);
            const VF dx = StoreToken(dt[j], ui, dy[j], slope[j], token[j]);
            dydx = hn::MulAdd(dy[j], dx, dydx);
            StoreF(hn::MulAdd(dy[j], ui, LoadF(dd + at)), dd + at);
          }
        });
    StoreF(dydx, s_.dydx + t * kLanes);
  }

  HWY_NOINLINE void FinishUpTo(int64_t end) {
    const int64_t stop = std::min(end, pending_.rows);
    const bool whole = pending_.col + pending_.slots * kLanes <= args_.channels;
    if (streams_ && whole && pending_.next < stop &&
        pending_.slots == kBackVectors && pending_.col % kBackPair == 0) {
      if (args_.u.dtype == DType::kF32) {
        FinishStreams<float>(stop);
      } else {
        FinishStreams<BFloat16>(stop);
      }
      return;
    }
    for (; pending_.next < stop; ++pending_.next) {
      for (int k = 0; k < pending_.slots; ++k) {
        FinishVector(pending_.row + pending_.next, pending_.col + k * kLanes,
                     pending_.token + pending_.next * kBackRow + k * kLanes);
      }
    }
  }

  // The pending rows up to `stop` where everything is gated, of one type, and
  // past the caches.
  template <class T>
  HWY_INLINE void FinishStreams(int64_t stop) {
    constexpr int kSlots = kBackVectors;
    const int64_t col = pending_.col, row = pending_.row + pending_.next;
    const float* HWY_RESTRICT token = pending_.token + pending_.next * kBackRow;
    const T* HWY_RESTRICT u_at = ElementOf<const T>(args_.u, row, col);
    T* HWY_RESTRICT du_at = ElementOf<T>(du_.view, row, col);
    T* HWY_RESTRICT ddt_at = ElementOf<T>(ddt_.view, row, col);
    T* HWY_RESTRICT dz_at = ElementOf<T>(dz_.view, row, col);
    const int64_t channel = col - col0_;
    VF d[kSlots], dbias[kSlots];
    for (int k = 0; k < kSlots; ++k) {
      d[k] = LoadF(s_.d + channel + k * kLanes);
      dbias[k] = LoadF(dbias_ + channel + k * kLanes);
    }
    for (; pending_.next < stop; ++pending_.next) {
      VF du[kSlots], ddt[kSlots], dz[kSlots];
      for (int k = 0; k < kSlots; ++k) {
        const float* HWY_RESTRICT from = token + k * kLanes;
        const VF u = LoadF(u_at + k * kLanes);
        const VF ddx = LoadF(from + kBackDdx * kBackWidth);
        du[k] = hn::MulAdd(LoadF(from + kBackDy * kBackWidth), d[k],
                           hn::Mul(ddx, LoadF(from + kBackDt * kBackWidth)));
        const VF x = hn::Mul(LoadF(from + kBackDdt * kBackWidth), Set(kLn2));
        ddt[k] = hn::Mul(hn::MulAdd(ddx, u, x),
                         LoadF(from + kBackSlope * kBackWidth));
        dbias[k] = hn::Add(dbias[k], ddt[k]);
        const VF y = hn::MulAdd(d[k], u, LoadF(from + kBackY * kBackWidth));
        dz[k] = hn::Mul(LoadF(from + kBackDgate * kBackWidth), y);
      }
      StreamLine(du, du_at);
      StreamLine(ddt, ddt_at);
      StreamLine(dz, dz_at);
      token += kBackRow;
      u_at += args_.u.stride;
      du_at += du_.view.stride;
      ddt_at += ddt_.view.stride;
      dz_at += dz_.view.stride;
    }
    for (int k = 0; k < kSlots; ++k) {
      StoreF(dbias[k], dbias_ + channel + k * kLanes);
    }
  }

  // du, ddt_raw, dz of one vector, and the sum over time of ddt_raw.
  HWY_INLINE void FinishVector(int64_t row, int64_t col, float* token) {
    const int64_t left = args_.channels - col;
    const int64_t channel = col - col0_;
    const VF u = ReadVector(args_.u, row, col, left);
    const VF d = LoadF(s_.d + channel);
    const VF ddx = LoadF(token + kBackDdx * kBackWidth);
    const VF du = hn::MulAdd(LoadF(token + kBackDy * kBackWidth), d,
                             hn::Mul(ddx, LoadF(token + kBackDt * kBackWidth)));
    VF ddt = hn::Mul(LoadF(token + kBackDdt * kBackWidth), Set(kLn2));
    ddt = hn::MulAdd(ddx, u, ddt);
    ddt = hn::Mul(ddt, LoadF(token + kBackSlope * kBackWidth));
    const VF y = hn::MulAdd(d, u, LoadF(token + kBackY * kBackWidth));
    const VF dz = hn::Mul(LoadF(token + kBackDgate * kBackWidth), y);
    float* dbias = dbias_ + channel;
    StoreF(hn::Add(ddt, LoadF(dbias)), dbias);
    WriteOrPut(du_, du, row, col, left, token + kBackDdx * kBackWidth);
    WriteOrPut(ddt_, ddt, row, col, left, token + kBackDdt * kBackWidth);
    if (dz_.view.data == nullptr) return;
    WriteOrPut(dz_, dz, row, col, left, token + kBackDgate * kBackWidth);
  }

  // Into the matrix, or into the token, for WriteLines.
  static HWY_INLINE void WriteOrPut(const VectorWriter& writer, VF x,
                                    int64_t row, int64_t col, int64_t left,
                                    float* token) {
    if (writer.lines) {
      StoreF(x, token);
    } else {
      writer.Write(x, row, col, left);
    }
  }

  // Vectors whose outputs are still to be written.
  struct Pending {
    int64_t row = 0, rows = 0, next = 0;  // Of the matrices; those done.
    int64_t col = 0;
    int slots = 0;
    float* token = nullptr;
  };

  const SelectiveScanArgs& args_;
  const SelectiveScanBackwardArgs& grad_;
  const BackwardScratch& s_;
  const int64_t col0_;
  float* const dd_;
  float* const dbias_;
  const VectorWriter du_, ddt_, dz_;
  Pending pending_;
  // Rows to write in each of the two gaps of a block.
  const int64_t chunk_;
  // Whether all inputs are there and of one type, and FinishStreams will do.
  const bool one_type_, streams_;
};

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#endif  // CARRY_KERNELS_CPU_SELECTIVE_SCAN_BACKWARD_ROWS_INL_H_
