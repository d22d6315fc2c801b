// y = x W^T + b.    x [..., K], W [N, K], b [N], y [..., N]
//
// dx = dy W; dW += dy^T x; db += sum of rows of dy. Products run in x's dtype
// with fp32 accumulation, gradients of parameters are fp32.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

// y has the dtype of x. bias may be nullptr.
Var Linear(Tape& tape, const Var& x, Parameter& weight, Parameter* bias);

}  // namespace carry
