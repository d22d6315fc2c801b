// Matrix products against the best that oneDNN itself does for the shape: all
// layouts its own choice, nothing to reorder. Weight gradients also against its
// best for the layout that they have: no order of its own choice is to be had
// without a transposed copy.

#include <memory>

#include "kernels/bench/product_yardstick.h"
#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/matmul.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

struct Layer {
  const char* name;
  int64_t n, k;  // y [M, N] = x [M, K] W [N, K]^T
};

BenchRow Row(const std::string& op, const std::string& shape, int64_t m,
             int64_t n, int64_t k, DType in, DType out,
             std::function<void()> run,
             ProductLayout layout = ProductLayout::kOwnChoice) {
  BenchRow row;
  row.op = op;
  row.shape = shape;
  row.unit = "GFLOP/s";
  row.work = 2e-9 * m * n * k;
  row.run = std::move(run);
  row.limit_name = layout == ProductLayout::kGradient ? "oneDNN, same layout"
                                                      : "oneDNN's best";
  auto best = std::make_shared<ProductYardstick>(m, n, k, in, out, layout);
  row.limit = [best] { return best->Gflops(); };
  row.bar = 0.95;
  return row;
}

std::string ShapeOf(const Layer& layer, int64_t m, DType dtype) {
  return std::string(ShortName(dtype)) + " " + layer.name + " M" +
         std::to_string(m) + " N" + std::to_string(layer.n) + " K" +
         std::to_string(layer.k);
}

void AddLayer(std::vector<BenchRowMaker>* rows, const Layer& layer, int64_t m,
              DType dtype) {
  const int64_t n = layer.n, k = layer.k;
  const std::string shape = ShapeOf(layer, m, dtype);
  rows->push_back(
      {"matmul packed " + shape, [=] {
         BenchPool pool;
         const MatView w = pool.Matrix(n, k, DType::kF32, -1, 1);
         auto packed = std::make_shared<PackedWeight>(w, true, dtype, m);
         const MatView x = pool.Matrix(m, k, dtype, -1, 1);
         const MatView y = pool.Matrix(m, n, dtype, 0, 0);
         return Row("matmul packed", shape, m, n, k, dtype, dtype,
                    [=] { MatMul(x, *packed, y, Write::kOverwrite, nullptr); });
       }});
  rows->push_back(
      {"matmul dx packed " + shape, [=] {
         BenchPool pool;
         const MatView w = pool.Matrix(n, k, DType::kF32, -1, 1);
         auto packed = std::make_shared<PackedWeight>(w, false, dtype, m);
         const MatView dy = pool.Matrix(m, n, dtype, -1, 1);
         const MatView dx = pool.Matrix(m, k, dtype, 0, 0);
         return Row("matmul dx packed", shape, m, k, n, dtype, dtype, [=] {
           MatMul(dy, *packed, dx, Write::kOverwrite, nullptr);
         });
       }});
  for (ProductLayout layout :
       {ProductLayout::kGradient, ProductLayout::kOwnChoice}) {
    rows->push_back(
        {"matmul dw " + shape, [=] {
           BenchPool pool;
           const MatView x = pool.Matrix(m, k, dtype, -1, 1);
           const MatView dy = pool.Matrix(m, n, dtype, -1, 1);
           const MatView dw = pool.Matrix(n, k, DType::kF32, 0, 0);
           const auto run = [=] {
             MatMul({dy, true, x, false, dw, Write::kAccumulate, nullptr});
           };
           BenchRow row = Row("matmul dw", shape, n, k, m, dtype, DType::kF32,
                              run, layout);
           if (layout == ProductLayout::kOwnChoice) row.bar = 0;
           return row;
         }});
  }
}

// A weight gradient whose operands and sum come from memory, as in a step.
void AddColdGradient(std::vector<BenchRowMaker>* rows, const Layer& layer,
                     int64_t m, DType dtype) {
  const int64_t n = layer.n, k = layer.k;
  const std::string shape = ShapeOf(layer, m, dtype);
  rows->push_back(
      {"matmul dw cold " + shape, [=] {
         BenchPool pool;
         // In fp32, as the pool counts.
         const int64_t bytes = 4 * (m * (n + k) + n * k);
         const int64_t sets = std::max<int64_t>(1, (900 << 20) / bytes);
         std::vector<MatMulArgs> calls;
         for (int64_t i = 0; i < sets; ++i) {
           const MatView x = pool.Matrix(m, k, dtype, -1, 1);
           const MatView dy = pool.Matrix(m, n, dtype, -1, 1);
           const MatView dw = pool.Matrix(n, k, DType::kF32, 0, 0);
           calls.push_back(
               {dy, true, x, false, dw, Write::kAccumulate, nullptr});
         }
         BenchRow row = Row("matmul dw cold", shape, n, k, m, dtype,
                            DType::kF32, [calls, i = size_t{0}]() mutable {
                              MatMul(calls[i++ % calls.size()]);
                            });
         row.bar = 0;
         return row;
       }});
}

// One row against weights that come from memory: their bytes against a read.
void AddVector(std::vector<BenchRowMaker>* rows, const Layer& layer, int64_t m,
               DType dtype) {
  const int64_t n = layer.n, k = layer.k;
  const std::string shape = ShapeOf(layer, m, dtype);
  rows->push_back(
      {"matmul vector " + shape, [=] {
         BenchPool pool;
         const MatView w = pool.Matrix(n, k, DType::kF32, -1, 1);
         const int64_t bytes = n * k * SizeOf(dtype);
         const int64_t sets = std::max<int64_t>(1, (256 << 20) / bytes);
         auto packed =
             std::make_shared<std::vector<std::unique_ptr<PackedWeight>>>();
         for (int64_t i = 0; i < sets; ++i) {
           packed->push_back(std::make_unique<PackedWeight>(w, true, dtype, m));
         }
         const MatView x = pool.Matrix(m, k, dtype, -1, 1);
         const MatView y = pool.Matrix(m, n, dtype, 0, 0);
         BenchRow row;
         row.op = "matmul vector";
         row.shape = shape;
         row.unit = "GB/s";
         row.work = 1e-9 * bytes;
         row.run = [=, i = 0]() mutable {
           MatMul(x, *(*packed)[i++ % packed->size()], y, Write::kOverwrite,
                  nullptr);
         };
         row.limit_name = "read";
         row.limit = ReadBandwidth;
         row.bar = 0.7;
         return row;
       }});
}

}  // namespace

void AddMatMulRows(std::vector<BenchRowMaker>* rows) {
  const Layer in = {"in_proj", 3072, 768}, x = {"x_proj", 80, 1536},
              dt = {"dt_proj", 1536, 48}, out = {"out_proj", 768, 1536},
              head = {"head", 50280, 768}, wide = {"in_proj 1.4B", 8192, 2048};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Layer& layer : {in, x, dt, out}) {
      AddLayer(rows, layer, 2048, dtype);
    }
    AddLayer(rows, head, 256, dtype);
    AddLayer(rows, wide, 1024, dtype);
    AddLayer(rows, {"out_proj 1.4B", 2048, 4096}, 1024, dtype);
    for (const Layer& layer : {in, x, dt, out}) {
      AddColdGradient(rows, layer, 1024, dtype);
    }
    for (const Layer& layer : {in, x, dt, out, head}) {
      AddVector(rows, layer, 1, dtype);
    }
    AddVector(rows, in, 4, dtype);
  }
}

}  // namespace carry
