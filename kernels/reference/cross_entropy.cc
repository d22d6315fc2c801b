#include "kernels/reference/cross_entropy.h"

#include <algorithm>
#include <cmath>

namespace carry::reference {
namespace {

double LogSum(const double* x, int64_t n) {
  const double max = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - max);
  return max + std::log(sum);
}

}  // namespace

std::vector<double> CrossEntropy(const std::vector<double>& logits,
                                 const std::vector<int32_t>& targets,
                                 int64_t vocab) {
  std::vector<double> nll(targets.size());
  for (size_t r = 0; r < targets.size(); ++r) {
    const double* x = logits.data() + r * vocab;
    if (targets[r] >= 0) nll[r] = LogSum(x, vocab) - x[targets[r]];
  }
  return nll;
}

std::vector<double> CrossEntropyGradient(const std::vector<double>& logits,
                                         const std::vector<int32_t>& targets,
                                         int64_t vocab, double weight) {
  std::vector<double> grad(logits.size());
  for (size_t r = 0; r < targets.size(); ++r) {
    if (targets[r] < 0) continue;
    const double* x = logits.data() + r * vocab;
    const double log_sum = LogSum(x, vocab);
    for (int64_t v = 0; v < vocab; ++v) {
      grad[r * vocab + v] =
          weight * (std::exp(x[v] - log_sum) - (v == targets[r] ? 1 : 0));
    }
  }
  return grad;
}

}  // namespace carry::reference
