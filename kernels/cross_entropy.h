// Softmax cross-entropy of a slice of rows, with its gradient.
//
//   nll_r = log(sum_v exp(x_rv)) - x_{r, target_r}
//   dx_rv = weight (softmax(x_r)_v - [v == target_r])
//
// target_r < 0: the row does not count (nll 0, gradient 0). logits fp32
// [R, V]; dlogits fp32 or bf16 [R, V] may start at the same address with the
// same row pitch in bytes (row r then overwrites the front of row r), or have
// data == nullptr: no gradient. Reductions fp32. Bytes a row: V 4 read,
// V |dx| written.
#pragma once

#include "kernels/types.h"

namespace carry {

void CrossEntropy(ConstMatView logits, const int32_t* targets, float weight,
                  MatView dlogits, float* nll);

}  // namespace carry
