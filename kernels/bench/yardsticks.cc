#include "kernels/bench/yardsticks.h"

#include <algorithm>
#include <vector>

#include "kernels/bench/clock.h"
#include "kernels/bench/memory.h"
#include "kernels/matmul.h"
#include "kernels/parallel_for.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bench/yardsticks.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/cpu/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace carry {
namespace HWY_NAMESPACE {

// FLOPs of `rounds`. Twelve chains cover the latency of 4 cycles of two units.
double Fma(int64_t rounds, float* sink) {
  constexpr int kChains = 12;
  VF x[kChains];
  for (int i = 0; i < kChains; ++i) x[i] = Set(static_cast<float>(i));
  const VF a = Set(*sink), b = Set(0.5f);
  for (int64_t r = 0; r < rounds; ++r) {
    for (int i = 0; i < kChains; ++i) x[i] = hn::MulAdd(x[i], a, b);
  }
  for (int i = 1; i < kChains; ++i) x[0] = hn::Add(x[0], x[i]);
  *sink += Sum(x[0]) * 1e-30f;
  return 2.0 * kChains * kLanes * rounds;
}

// Exponentials of `rounds` over 16 tokens of one vector of channels and 16
// states. `to`: 16 KB, whose stores need none of the ports that compute.
double Exponentials(int64_t rounds, const float* dt, const float* a,
                    float* HWY_RESTRICT to) {
  constexpr int kTokens = 16, kStates = 16, kBlock = 8;
  for (int64_t r = 0; r < rounds; ++r) {
    for (int n = 0; n < kStates; n += kBlock) {
      VF rate[kBlock];
      for (int j = 0; j < kBlock; ++j) rate[j] = LoadF(a + (n + j) * kLanes);
      for (int t = 0; t < kTokens; ++t) {
        const VF step = LoadF(dt + t * kLanes);
        VF y[kBlock];
        for (int j = 0; j < kBlock; ++j) y[j] = hn::Mul(step, rate[j]);
        Exp2(y);
        for (int j = 0; j < kBlock; ++j) {
          StoreF(y[j], to + (t * kStates + n + j) * kLanes);
        }
      }
    }
    asm volatile("" : : "r"(to) : "memory");  // Every round counts.
  }
  return 1.0 * kTokens * kStates * kLanes * rounds;
}

float ReadRange(const float* p, int64_t n) {
  VF sum[4] = {Zero(), Zero(), Zero(), Zero()};
  for (int64_t i = 0; i < n; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      sum[j] = hn::Add(sum[j], LoadF(p + i + j * kLanes));
    }
  }
  return Sum(hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])));
}

void CopyRange(const float* from, float* to, int64_t n, bool stream) {
  if (stream) {
    for (int64_t i = 0; i < n; i += kLanes) StreamF(LoadF(from + i), to + i);
    hwy::FlushStream();
  } else {
    for (int64_t i = 0; i < n; i += kLanes) StoreF(LoadF(from + i), to + i);
  }
}

void WriteRange(float* to, int64_t n, bool stream) {
  const VF v = Set(1.0f);
  if (stream) {
    for (int64_t i = 0; i < n; i += kLanes) StreamF(v, to + i);
    hwy::FlushStream();
  } else {
    for (int64_t i = 0; i < n; i += kLanes) StoreF(v, to + i);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace carry
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace carry {
namespace {

HWY_EXPORT(Fma);
HWY_EXPORT(Exponentials);
HWY_EXPORT(ReadRange);
HWY_EXPORT(CopyRange);
HWY_EXPORT(WriteRange);

// Half of what is streamed through: 2 x 128 MB.
constexpr int64_t kFloats = 32 << 20;
constexpr int64_t kChunk = 1 << 14;  // Floats of a task.

float* Half(int which) {
  static float* const begin = [] {
    static const BenchMemory memory(2 * kFloats);
    float* p = memory.data();
    std::fill_n(p, 2 * kFloats, 0.01f);  // Pages exist once they are written.
    return p;
  }();
  return begin + which * kFloats;
}

// Work per second, in 1e9; body(thread) returns the work it did.
template <class Body>
double Rate(const Body& body) {
  const int threads = NumThreads();
  std::vector<double> work(threads);
  const double start = BenchSeconds();
  ParallelFor(threads, [&](int64_t i) { work[i] = body(i); });
  const double seconds = BenchSeconds() - start;
  double sum = 0;
  for (double x : work) sum += x;
  return sum / seconds * 1e-9;
}

// The same for body(first float, floats) over kFloats, `bytes` a float.
template <class Body>
double Bandwidth(double bytes, const Body& body) {
  const int threads = NumThreads();
  return Rate([&](int64_t i) {
    const int64_t begin = kFloats / kChunk * i / threads * kChunk;
    const int64_t end = kFloats / kChunk * (i + 1) / threads * kChunk;
    body(begin, end - begin);
    return bytes * (end - begin);
  });
}

}  // namespace

double FmaGflops() {
  return Rate([](int64_t) {
    float sink = 0.25f;
    return HWY_DYNAMIC_DISPATCH(Fma)(1 << 21, &sink);
  });
}

double ExpRate() {
  return Rate([](int64_t) {
    alignas(64) float dt[256], a[256];
    for (int i = 0; i < 256; ++i) {
      dt[i] = 0.001f * (i + 1);
      a[i] = -0.02f * (i + 1);
    }
    alignas(64) float to[4096];
    return HWY_DYNAMIC_DISPATCH(Exponentials)(1 << 13, dt, a, to);
  });
}

double ReadBandwidth() {
  return Bandwidth(4, [](int64_t i, int64_t n) {
    volatile float sum = HWY_DYNAMIC_DISPATCH(ReadRange)(Half(0) + i, n);
    (void)sum;
  });
}

double CopyBandwidth(bool stream) {
  return Bandwidth(8, [&](int64_t i, int64_t n) {
    HWY_DYNAMIC_DISPATCH(CopyRange)(Half(0) + i, Half(1) + i, n, stream);
  });
}

double WriteBandwidth(bool stream) {
  return Bandwidth(4, [&](int64_t i, int64_t n) {
    HWY_DYNAMIC_DISPATCH(WriteRange)(Half(1) + i, n, stream);
  });
}

double MatMulGflops(DType dtype) {
  // 8.6 GFLOP in fp32, four times that in bf16, some 10 ms on either unit.
  const int64_t n = dtype == DType::kF32 ? 1024 : 1536;
  // Of this call: a training run measures this at its start, and goes on.
  const BenchMemory memory(4 * 1536 * 1536);
  float* p = memory.data();
  const int64_t size = 1536 * 1536;
  const ConstMatView w = {p, DType::kF32, n, n, n};
  const PackedWeight packed(w, true, dtype, n);
  const ConstMatView x = {p + size, dtype, n, n, n};
  const MatView y = {p + 2 * size, dtype, n, n, n};
  MatMul(x, packed, y, Write::kOverwrite, nullptr);
  const int repeats = 4;
  const double start = BenchSeconds();
  for (int i = 0; i < repeats; ++i) {
    MatMul(x, packed, y, Write::kOverwrite, nullptr);
  }
  return 2e-9 * n * n * n * repeats / (BenchSeconds() - start);
}

}  // namespace carry
#endif  // HWY_ONCE
