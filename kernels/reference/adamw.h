// AdamW in double. Equations as in kernels/adamw.h.
#pragma once

#include <vector>

namespace carry::reference {

struct AdamWState {
  std::vector<double> weight, m, v;
};
struct AdamWConstants {
  double lr, beta1, beta2, eps, weight_decay;
  int step;  // From 1.
  double grad_scale;
};
void AdamW(const AdamWConstants& constants, const std::vector<double>& grad,
           AdamWState* state);

}  // namespace carry::reference
