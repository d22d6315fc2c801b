#include "kernels/reference/causal_conv1d.h"

#include "kernels/reference/math.h"

namespace carry::reference {
namespace {

// Whether a token at time t sees the input at time s <= t.
bool Sees(const ConvInputs& in, int64_t b, int64_t t, int64_t s) {
  if (in.document_start.empty()) return true;
  for (int64_t i = std::max<int64_t>(s + 1, 0); i <= t; ++i) {
    if (in.document_start[b * in.time + i] != 0) return false;
  }
  return true;
}

// Index of the input at time s in x (s >= 0) or in carry_in.
int64_t IndexX(const ConvInputs& in, int64_t b, int64_t s, int64_t e) {
  return (b * in.time + s) * in.channels + e;
}
int64_t IndexCarry(const ConvInputs& in, int64_t b, int64_t s, int64_t e) {
  return (b * in.channels + e) * (in.taps - 1) + in.taps - 1 + s;
}

double Input(const ConvInputs& in, int64_t b, int64_t s, int64_t e) {
  if (s >= 0) return in.x[IndexX(in, b, s, e)];
  return in.carry_in.empty() ? 0.0 : in.carry_in[IndexCarry(in, b, s, e)];
}

double Convolve(const ConvInputs& in, int64_t b, int64_t t, int64_t e) {
  double v = in.bias.empty() ? 0.0 : in.bias[e];
  for (int64_t k = 0; k < in.taps; ++k) {
    const int64_t s = t - in.taps + 1 + k;
    if (Sees(in, b, t, s)) v += in.weight[e * in.taps + k] * Input(in, b, s, e);
  }
  return v;
}

}  // namespace

ConvOutputs ConvForward(const ConvInputs& in) {
  ConvOutputs out;
  out.y.resize(in.x.size());
  out.carry_out.resize(in.batch * in.channels * (in.taps - 1));
  for (int64_t b = 0; b < in.batch; ++b) {
    for (int64_t e = 0; e < in.channels; ++e) {
      for (int64_t t = 0; t < in.time; ++t) {
        const double v = Convolve(in, b, t, e);
        out.y[IndexX(in, b, t, e)] = in.silu ? Silu(v) : v;
      }
      for (int64_t j = 0; j < in.taps - 1; ++j) {
        const int64_t s = in.time - in.taps + 1 + j;
        out.carry_out[(b * in.channels + e) * (in.taps - 1) + j] =
            Sees(in, b, in.time - 1, s) ? Input(in, b, s, e) : 0.0;
      }
    }
  }
  return out;
}

ConvGradients ConvBackward(const ConvInputs& in, const std::vector<double>& dy,
                           const std::vector<double>& dcarry_out) {
  ConvGradients grad;
  grad.x.resize(in.x.size());
  grad.weight.resize(in.weight.size());
  grad.bias.resize(in.channels);
  grad.carry_in.resize(in.batch * in.channels * (in.taps - 1));
  const auto add = [&](int64_t b, int64_t s, int64_t e, double g) {
    if (s >= 0) {
      grad.x[IndexX(in, b, s, e)] += g;
    } else {
      grad.carry_in[IndexCarry(in, b, s, e)] += g;
    }
  };
  for (int64_t b = 0; b < in.batch; ++b) {
    for (int64_t e = 0; e < in.channels; ++e) {
      for (int64_t t = 0; t < in.time; ++t) {
        double dv = dy[IndexX(in, b, t, e)];
        if (in.silu) dv *= SiluSlope(Convolve(in, b, t, e));
        grad.bias[e] += dv;
        for (int64_t k = 0; k < in.taps; ++k) {
          const int64_t s = t - in.taps + 1 + k;
          if (!Sees(in, b, t, s)) continue;
          grad.weight[e * in.taps + k] += dv * Input(in, b, s, e);
          add(b, s, e, dv * in.weight[e * in.taps + k]);
        }
      }
      if (dcarry_out.empty()) continue;
      for (int64_t j = 0; j < in.taps - 1; ++j) {
        const int64_t s = in.time - in.taps + 1 + j;
        if (!Sees(in, b, in.time - 1, s)) continue;
        add(b, s, e, dcarry_out[(b * in.channels + e) * (in.taps - 1) + j]);
      }
    }
  }
  return grad;
}

}  // namespace carry::reference
