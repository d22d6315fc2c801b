// Small passes over flat arrays of n elements.
#pragma once

#include "kernels/types.h"

namespace carry {

void Cast(const void* src, DType src_type, void* dst, DType dst_type,
          int64_t n);  // fp32 <-> bf16
void AddTo(float* dst, const void* src, DType type, int64_t n);  // dst += src
// dst += src, each fp32 or bf16; bf16 rounds to nearest even.
void AddMatrix(MatView dst, ConstMatView src);
// y = -exp(x), the nearest float: what a log of rates stands for.
void NegativeExp(const float* x, float* y, int64_t n);
// dst += a b, rounded once or twice.
void AddProduct(float* dst, const float* a, const float* b, int64_t n);
// sums[c] += sum over rows of x[r, c].
void AddColumnSums(ConstMatView x, float* sums);
void Scale(float* x, float factor, int64_t n);
// Index of the first value that is not finite, or -1.
int64_t FirstNonFinite(const void* x, DType type, int64_t n);
// dst [cols, rows] = src [rows, cols] transposed, fp32.
void Transpose(const float* src, int64_t rows, int64_t cols, float* dst);
// dst [x.cols, x.rows] = x transposed, bf16.
void TransposeBf16(ConstMatView x, BFloat16* dst);

}  // namespace carry
