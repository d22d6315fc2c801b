// Rows of a table, kernels/embedding.h.
#pragma once

#include "framework/parameter.h"
#include "framework/tape.h"

namespace carry {

// tokens [B, T], ids below the table's rows; table [V, D]; fp32 [B, T, D].
// `tokens` are in the memory of the table's device and outlive the tape.
Var Embedding(Tape& tape, const int32_t* tokens, int64_t batch, int64_t time,
              Parameter& table);

}  // namespace carry
