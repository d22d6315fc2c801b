#include "kernels/reference/selective_scan.h"

#include <cmath>

#include "kernels/reference/math.h"

namespace carry::reference {
namespace {

double At(const std::vector<double>& v, int64_t i) {
  return v.empty() ? 0.0 : v[i];
}

// What backward needs of one channel's forward pass: h before each token.
struct Trace {
  std::vector<double> before;  // [T][N], zero at a document start
  std::vector<double> y;       // [T], before the gate
  std::vector<double> last;    // [N]
};

bool StartsAt(const ScanInputs& in, int64_t b, int64_t t) {
  return !in.document_start.empty() && in.document_start[b * in.time + t] != 0;
}

double StepSize(const ScanInputs& in, int64_t row, int64_t e) {
  return Softplus(in.dt_raw[row * in.channels + e] + At(in.dt_bias, e));
}

Trace Run(const ScanInputs& in, int64_t b, int64_t e) {
  const int64_t N = in.states;
  Trace trace;
  trace.before.resize(in.time * N);
  std::vector<double> h(N);
  for (int64_t n = 0; n < N; ++n) {
    h[n] = At(in.state_in, (b * in.channels + e) * N + n);
  }
  for (int64_t t = 0; t < in.time; ++t) {
    const int64_t row = b * in.time + t;
    const double u = in.u[row * in.channels + e];
    const double dt = StepSize(in, row, e);
    double y = At(in.d, e) * u;
    for (int64_t n = 0; n < N; ++n) {
      if (StartsAt(in, b, t)) h[n] = 0;
      trace.before[t * N + n] = h[n];
      h[n] = std::exp(dt * in.a[e * N + n]) * h[n] + dt * u * in.b[row * N + n];
      y += in.c[row * N + n] * h[n];
    }
    trace.y.push_back(y);
  }
  trace.last = h;
  return trace;
}

}  // namespace

ScanOutputs ScanForward(const ScanInputs& in) {
  ScanOutputs out;
  out.out.resize(in.u.size());
  out.state_out.resize(in.batch * in.channels * in.states);
  for (int64_t b = 0; b < in.batch; ++b) {
    for (int64_t e = 0; e < in.channels; ++e) {
      const Trace trace = Run(in, b, e);
      for (int64_t t = 0; t < in.time; ++t) {
        const int64_t i = (b * in.time + t) * in.channels + e;
        out.out[i] = in.z.empty() ? trace.y[t] : trace.y[t] * Silu(in.z[i]);
      }
      for (int64_t n = 0; n < in.states; ++n) {
        out.state_out[(b * in.channels + e) * in.states + n] = trace.last[n];
      }
    }
  }
  return out;
}

ScanGradients ScanBackward(const ScanInputs& in,
                           const std::vector<double>& dout,
                           const std::vector<double>& dstate_out) {
  const int64_t N = in.states;
  ScanGradients grad;
  grad.u.resize(in.u.size());
  grad.dt_raw.resize(in.u.size());
  grad.z.resize(in.z.size());
  grad.b.resize(in.b.size());
  grad.c.resize(in.c.size());
  grad.a.resize(in.a.size());
  grad.d.resize(in.channels);
  grad.dt_bias.resize(in.channels);
  grad.state_in.resize(in.batch * in.channels * N);
  for (int64_t b = 0; b < in.batch; ++b) {
    for (int64_t e = 0; e < in.channels; ++e) {
      const Trace trace = Run(in, b, e);
      std::vector<double> g(N);  // Gradient of h after token t.
      for (int64_t n = 0; n < N; ++n) {
        g[n] = At(dstate_out, (b * in.channels + e) * N + n);
      }
      for (int64_t t = in.time - 1; t >= 0; --t) {
        const int64_t row = b * in.time + t;
        const int64_t i = row * in.channels + e;
        const double u = in.u[i];
        const double dt = StepSize(in, row, e);
        double dy = dout[i];
        if (!in.z.empty()) {
          grad.z[i] = dy * trace.y[t] * SiluSlope(in.z[i]);
          dy *= Silu(in.z[i]);
        }
        double ddt = 0;
        grad.u[i] = dy * At(in.d, e);
        grad.d[e] += dy * u;
        for (int64_t n = 0; n < N; ++n) {
          const int64_t en = e * N + n;
          const double before = trace.before[t * N + n];
          const double decay = std::exp(dt * in.a[en]);
          const double h = decay * before + dt * u * in.b[row * N + n];
          g[n] += in.c[row * N + n] * dy;
          grad.c[row * N + n] += dy * h;
          grad.b[row * N + n] += g[n] * dt * u;
          grad.u[i] += g[n] * dt * in.b[row * N + n];
          ddt += g[n] * (u * in.b[row * N + n] + in.a[en] * decay * before);
          grad.a[en] += g[n] * dt * decay * before;
          g[n] = StartsAt(in, b, t) ? 0.0 : g[n] * decay;
        }
        const double slope = Sigmoid(in.dt_raw[i] + At(in.dt_bias, e));
        grad.dt_raw[i] = ddt * slope;
        grad.dt_bias[e] += ddt * slope;
      }
      for (int64_t n = 0; n < N; ++n) {
        grad.state_in[(b * in.channels + e) * N + n] = g[n];
      }
    }
  }
  return grad;
}

}  // namespace carry::reference
