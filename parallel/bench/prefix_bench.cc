// What PREFIX's summary passes cost beside the scans that they precede, in one
// run: `carry_prefix_bench [channels] [threads]`. Rates and step sizes are
// those of a fresh Mamba model (S4D-real, steps log-uniform in 0.001 .. 0.1),
// which decide how soon a weight dies.

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "framework/random.h"
#include "kernels/parallel_for.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"

namespace carry {
namespace {

constexpr int64_t kStates = 16;

// Uniform in [low, high].
std::vector<float> Numbers(int64_t n, double low, double high) {
  static uint64_t stream = 0;
  ++stream;
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) {
    x[i] = static_cast<float>(low + (high - low) * Uniform(1, stream, i));
  }
  return x;
}

MatView View(std::vector<float>& x, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(x.size()) / cols;
  return {x.data(), DType::kF32, rows, cols, cols};
}

double Seconds(const std::function<void()>& body) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> took =
        std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

void Measure(int64_t time, int64_t channels) {
  const int64_t te = time * channels, en = channels * kStates;
  std::vector<float> u = Numbers(te, -1, 1), raw = Numbers(te, -0.5, 0.5);
  std::vector<float> z = Numbers(te, -2, 2), dout = Numbers(te, -1, 1);
  std::vector<float> b = Numbers(time * kStates, -1, 1);
  std::vector<float> c = Numbers(time * kStates, -1, 1);
  std::vector<float> a(en),
      bias = Numbers(channels, std::log(1e-3), std::log(1e-1));
  for (int64_t i = 0; i < en; ++i) a[i] = -static_cast<float>(i % kStates + 1);
  for (float& x : bias) x = std::log(std::expm1(std::exp(x)));
  std::vector<float> d(channels, 1.0f), out(te), state(en), summary(en);
  std::vector<float> dt_sum(channels), du(te), ddt(te), dz(te);
  std::vector<float> db(time * kStates), dc = db, da(en), dd(channels);
  std::vector<float> saved(SelectiveScanSavedSize(1, time, channels, kStates));

  SelectiveScanArgs args{};
  args.batch = 1, args.time = time, args.channels = channels;
  args.states = kStates;
  args.u = View(u, channels), args.dt_raw = View(raw, channels);
  args.z = View(z, channels);
  args.b = View(b, kStates), args.c = View(c, kStates);
  args.a = a.data(), args.d = d.data(), args.dt_bias = bias.data();
  const double forward = Seconds([&] {
    SelectiveScanForward(args,
                         {View(out, channels), state.data(), saved.data()});
  });
  const double backward = Seconds([&] {
    SelectiveScanBackward(
        args,
        {View(dout, channels), nullptr, saved.data(), View(du, channels),
         View(ddt, channels), View(dz, channels), View(db, kStates),
         View(dc, kStates), da.data(), dd.data(), dd.data(), state.data()});
  });
  const ScanSummary to = {summary.data(), dt_sum.data()};
  const double s = Seconds([&] { SelectiveScanSummary(args, to); });
  const double r = Seconds(
      [&] { SelectiveScanGradSummary(args, View(dout, channels), to); });
  const double apply = Seconds([&] {
    ApplyScanSummary(1, channels, kStates, a.data(), summary.data(),
                     dt_sum.data(), state.data());
  });
  std::printf(
      "T %7lld  scan forward %8.2f ms, backward %8.2f ms | summary %8.2f ms "
      "(%4.0f%% of forward), of gradients %8.2f ms (%4.0f%% of backward), "
      "folding one %6.3f ms\n",
      static_cast<long long>(time), forward * 1e3, backward * 1e3, s * 1e3,
      100 * s / forward, r * 1e3, 100 * r / backward, apply * 1e3);
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) {
  const int64_t channels = argc > 1 ? std::atoll(argv[1]) : 512;
  carry::SetNumThreads(argc > 2 ? std::atoi(argv[2]) : 1);
  for (int64_t time : {256, 1024, 4096, 16384, 65536}) {
    carry::Measure(time, channels);
  }
}
