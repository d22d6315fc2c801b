// Softmax cross-entropy in double. Equations as in kernels/cross_entropy.h.
#pragma once

#include <cstdint>
#include <vector>

namespace carry::reference {

// logits [R, V]; targets < 0 do not count.
std::vector<double> CrossEntropy(const std::vector<double>& logits,
                                 const std::vector<int32_t>& targets,
                                 int64_t vocab);
// Gradient of weight * sum_r nll_r.
std::vector<double> CrossEntropyGradient(const std::vector<double>& logits,
                                         const std::vector<int32_t>& targets,
                                         int64_t vocab, double weight);

}  // namespace carry::reference
