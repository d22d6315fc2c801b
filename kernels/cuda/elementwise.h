// Some of kernels/elementwise.h on a GPU.
#pragma once

#include "kernels/cuda/launch_status.h"
#include "kernels/elementwise.h"

namespace carry::cuda {

LaunchStatus Cast(const void* src, DType src_type, void* dst, DType dst_type,
                  int64_t n, Stream stream);
LaunchStatus AddTo(float* dst, const void* src, DType type, int64_t n,
                   Stream stream);
// sums[c] += sum over rows of x[r, c]: of ranges of rows first, then of those
// in order. Workspaces are on the device and need not be initialised.
int64_t AddColumnSumsWorkspace(int64_t rows, int64_t cols);
LaunchStatus AddColumnSums(ConstMatView x, float* sums, float* workspace,
                           Stream stream);
LaunchStatus AddRow(MatView y, const float* row,
                    Stream stream);  // y[r, c] += row[c]
LaunchStatus AddMatrix(MatView dst, ConstMatView src, Stream stream);
LaunchStatus NegativeExp(const float* x, float* y, int64_t n, Stream stream);
LaunchStatus AddProduct(float* dst, const float* a, const float* b, int64_t n,
                        Stream stream);
// *result, on the device: the index of the first value that is not finite, or
// -1.
int64_t FirstNonFiniteWorkspace(int64_t n);
LaunchStatus FirstNonFinite(const void* x, DType type, int64_t n,
                            int64_t* result, int64_t* workspace, Stream stream);

}  // namespace carry::cuda
