// Scalar functions of the oracles.
#pragma once

#include <algorithm>
#include <cmath>

namespace carry::reference {

inline double Sigmoid(double x) {
  return x >= 0 ? 1 / (1 + std::exp(-x)) : std::exp(x) / (1 + std::exp(x));
}
inline double Softplus(double x) {
  return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)));
}
inline double Silu(double x) { return x * Sigmoid(x); }
inline double SiluSlope(double x) {
  const double s = Sigmoid(x);
  return s + x * s * (1 - s);
}

}  // namespace carry::reference
