// What backward's blocks leave behind, summed in a fixed order.
#include "kernels/cuda/selective_scan.cuh"

namespace carry::cuda {
namespace {

struct SumRowsArgs {
  int64_t rows, states, blocks;
  const float* dbc;  // [blocks, rows, 2N]
  AnyMatrixOut db, dc;
};
// A thread a row and state of B or C.
__global__ void __launch_bounds__(128) SumBlocksKernel(const SumRowsArgs args) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  const int64_t size = args.rows * 2 * args.states;
  if (i >= size) return;
  float sum = 0.0f;
  for (int64_t k = 0; k < args.blocks; ++k) sum += args.dbc[k * size + i];
  const int64_t row = i / (2 * args.states), v = i % (2 * args.states);
  if (v < args.states) {
    args.db.Store(sum, row, v);
  } else {
    args.dc.Store(sum, row, v - args.states);
  }
}

struct SumFoldsArgs {
  int64_t channels, states, folds;
  const float *from_da, *from_dd, *from_dbias;
  float *da, *dd, *dbias;
};
// A thread a channel and state, or a channel of dd or dbias.
__global__ void __launch_bounds__(128) SumFoldsKernel(const SumFoldsArgs args) {
  const int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x;
  const int64_t e = i % args.channels, n = i / args.channels;
  if (n >= args.states + 2) return;
  const float* from = args.from_da + i;
  int64_t step = args.states * args.channels;
  float* to = args.da + e * args.states + n;
  if (n >= args.states) {
    from = (n == args.states ? args.from_dd : args.from_dbias) + e;
    step = args.channels;
    to = n == args.states ? args.dd : args.dbias;
    if (to == nullptr) return;
    to += e;
  }
  float sum = 0.0f;
  for (int64_t k = 0; k < args.folds; ++k) sum += from[k * step];
  *to += sum;
}

}  // namespace

LaunchStatus SumPartials(const SelectiveScanArgs& args,
                         const SelectiveScanBackwardArgs& grad,
                         const ScanPlan& plan, const BackwardLayout& at,
                         const float* workspace, Stream stream) {
  constexpr int kThreads = 128;
  const SumRowsArgs rows = {args.batch * args.time, args.states,
                            at.channel_blocks,      workspace + at.dbc,
                            ToAny(grad.db),         ToAny(grad.dc)};
  const int64_t size = rows.rows * 2 * args.states;
  const LaunchStatus status =
      Launch("selective_scan_sum_blocks", SumBlocksKernel,
             dim3((size + kThreads - 1) / kThreads), kThreads, 0, stream, rows);
  if (!status.ok()) return status;
  const SumFoldsArgs folds = {
      args.channels,     args.states,       args.batch * plan.segments,
      workspace + at.da, workspace + at.dd, workspace + at.dbias,
      grad.da,           grad.dd,           grad.ddt_bias};
  const int64_t items = (args.states + 2) * args.channels;
  return Launch("selective_scan_sum_folds", SumFoldsKernel,
                dim3((items + kThreads - 1) / kThreads), kThreads, 0, stream,
                folds);
}

}  // namespace carry::cuda
