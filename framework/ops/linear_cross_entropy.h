// The vocabulary head fused with the cross-entropy.
//
//   logits = x W^T      nll_r = logsumexp(logits_r) - logits_{r, target_r}
//   loss = weight * sum_r nll_r over rows with target_r >= 0
//
// Logits exist for a slice of rows only. With a recording tape the gradients
// are made in the same pass over a slice, which saves a second product: dW is
// added at once and dx is kept for backward. So this op ends a tape: the
// gradient of `loss` is taken to be 1.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

// x [..., D]; weight [V, D]; targets [rows], -1 where a row does not count, in
// the memory of x's device (must outlive the call only). Returns nll fp32
// [rows], 0 where a row does not count. Reductions are fp32, logits are stored
// in fp32, their gradient in x's dtype.
Tensor LinearCrossEntropy(Tape& tape, const Var& x, Parameter& weight,
                          const int32_t* targets, float loss_weight);

// Rows of a slice, so that a slice of logits takes about 64 MiB.
int64_t CrossEntropySliceRows(int64_t rows, int64_t vocab);
// What a slice of logits and its gradient in `dtype` take at once.
int64_t CrossEntropyBytes(int64_t rows, int64_t vocab, DType dtype);

}  // namespace carry
