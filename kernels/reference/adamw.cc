#include "kernels/reference/adamw.h"

#include <cmath>

namespace carry::reference {

void AdamW(const AdamWConstants& constants, const std::vector<double>& grad,
           AdamWState* state) {
  const auto& [lr, beta1, beta2, eps, weight_decay, step, scale] = constants;
  const double c1 = 1 - std::pow(beta1, step);
  const double c2 = 1 - std::pow(beta2, step);
  for (size_t i = 0; i < grad.size(); ++i) {
    const double g = scale * grad[i];
    double& m = state->m[i];
    double& v = state->v[i];
    double& w = state->weight[i];
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    w -= lr * (m / c1 / (std::sqrt(v / c2) + eps) + weight_decay * w);
  }
}

}  // namespace carry::reference
