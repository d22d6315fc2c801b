#include "kernels/reference/rms_norm.h"

#include <cmath>

namespace carry::reference {

NormOutputs NormForward(const NormInputs& in) {
  NormOutputs out;
  out.sum = in.residual;
  out.y.resize(in.rows * in.dim);
  for (int64_t r = 0; r < in.rows; ++r) {
    double squares = 0;
    for (int64_t i = r * in.dim; i < (r + 1) * in.dim; ++i) {
      if (!in.delta.empty()) out.sum[i] += in.delta[i];
      squares += out.sum[i] * out.sum[i];
    }
    const double q = 1 / std::sqrt(squares / in.dim + in.eps);
    out.inv_rms.push_back(q);
    for (int64_t i = 0; i < in.dim; ++i) {
      out.y[r * in.dim + i] = out.sum[r * in.dim + i] * q * in.weight[i];
    }
  }
  return out;
}

NormGradients NormBackward(const NormInputs& in, const std::vector<double>& dy,
                           const std::vector<double>& dsum) {
  const NormOutputs forward = NormForward(in);
  NormGradients grad;
  grad.sum.resize(in.rows * in.dim);
  grad.weight.resize(in.dim);
  for (int64_t r = 0; r < in.rows; ++r) {
    const double q = forward.inv_rms[r];
    double dq = 0;
    for (int64_t i = 0; i < in.dim; ++i) {
      const int64_t at = r * in.dim + i;
      dq += dy[at] * in.weight[i] * forward.sum[at];
      grad.weight[i] += dy[at] * forward.sum[at] * q;
    }
    for (int64_t i = 0; i < in.dim; ++i) {
      const int64_t at = r * in.dim + i;
      // dq/ds = -q^3 s / D
      grad.sum[at] =
          dy[at] * in.weight[i] * q - dq * q * q * q * forward.sum[at] / in.dim;
      if (!dsum.empty()) grad.sum[at] += dsum[at];
    }
  }
  return grad;
}

}  // namespace carry::reference
