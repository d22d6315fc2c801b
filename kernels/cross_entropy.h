// Softmax cross-entropy of a slice of rows, gradient in place.
//
//   nll_r = log(sum_v exp(x_rv)) - x_{r, target_r}
//   x_rv <- weight (softmax(x_r)_v - [v == target_r])      if `gradient`
//
// target_r < 0: the row does not count (nll 0, gradient 0). logits fp32 or
// bf16 [R, V], reductions fp32. Bytes a row: V |x| read, V |x| written.
#pragma once

#include "kernels/types.h"

namespace carry {

void CrossEntropy(MatView logits, const int32_t* targets, float weight,
                  bool gradient, float* nll);

}  // namespace carry
