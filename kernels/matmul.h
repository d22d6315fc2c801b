// Matrix products, C = op(A) op(B) (+ C) (+ bias), accumulated in fp32.
//
//   op(A) [M, K], op(B) [K, N], C [M, N]; op(X) is X or its transpose.
//   A and B share a dtype (fp32 or bf16), C is fp32 or bf16.
//
// A linear layer y[M, N] = x[M, K] W[N, K]^T + b[N] needs
//   forward  y  = x W^T + b        transpose_b
//   dx       dx = dy W
//   dW       dW += dy^T x          transpose_a, Write::kAccumulate, C fp32
// FLOPs 2 M N K; bytes at least |A| + |B| + |C|.
//
// CPU: oneDNN (brgemm; AMX tiles for bf16 where the CPU has them), packed
// weights of large K in bf16 slice by slice; our own AMX tiles for dW, and for
// packed weights with K <= 128, in bf16.
// Thread safety: calls may run concurrently on different outputs.
#pragma once

#include <memory>

#include "kernels/types.h"

namespace carry {

struct MatMulArgs {
  ConstMatView a;
  bool transpose_a = false;
  ConstMatView b;
  bool transpose_b = false;
  MatView c;
  Write write = Write::kOverwrite;
  const float* bias = nullptr;  // [N], added to every row.
};
void MatMul(const MatMulArgs& args);

// Products of at most so many rows are bound by reading the weight. A weight
// that was packed for them is read once, as it lies, at the memory's rate.
constexpr int64_t kFewRows = 4;

// A weight W [N, K] in the layout that the library likes best for
// y = x op(W); made once per optimizer step, used for every chunk.
class PackedWeight {
 public:
  // `transpose` as transpose_b above: true for x W^T. `rows_hint` is the usual
  // M. Converts fp32 weights to `dtype`.
  PackedWeight(ConstMatView w, bool transpose, DType dtype, int64_t rows_hint);
  ~PackedWeight();
  PackedWeight(const PackedWeight&) = delete;
  PackedWeight& operator=(const PackedWeight&) = delete;

  // Packs new values of the same shape into the same memory.
  void Update(ConstMatView w);
  // The same for two packs of one weight, for y = x W^T and for dx = dy W, with
  // one pass over it.
  static void UpdateBoth(ConstMatView w, PackedWeight* y, PackedWeight* dx);

  struct Impl;
  const Impl& impl() const { return *impl_; }
  int64_t bytes() const;

 private:
  std::unique_ptr<Impl> impl_;
};

// C = A op(W) (+ C) (+ bias). A has the packed dtype.
void MatMul(ConstMatView a, const PackedWeight& w, MatView c, Write write,
            const float* bias);

}  // namespace carry
