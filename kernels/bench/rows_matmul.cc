// Matrix products against the best that oneDNN itself does for the shape: all
// layouts its own choice, nothing to reorder.

#include <chrono>
#include <memory>

#include "dnnl.hpp"
#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/matmul.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

using dnnl::memory;

// oneDNN with every layout `any`, on memory that only it sees.
class FreeLayouts {
 public:
  FreeLayouts(int64_t m, int64_t n, int64_t k, DType in, DType out)
      : flops_(2.0 * m * n * k) {
    const auto any = [](int64_t rows, int64_t cols, DType dtype) {
      return memory::desc({rows, cols},
                          dtype == DType::kF32 ? memory::data_type::f32
                                               : memory::data_type::bf16,
                          memory::format_tag::any);
    };
#if DNNL_VERSION_MAJOR >= 3
    const dnnl::matmul::primitive_desc pd(engine_, any(m, k, in), any(k, n, in),
                                          any(m, n, out));
#else
    const dnnl::matmul::primitive_desc pd(
        dnnl::matmul::desc(any(m, k, in), any(k, n, in), any(m, n, out)),
        engine_);
#endif
    primitive_ = dnnl::matmul(pd);
    args_ = {{DNNL_ARG_SRC, Filled(pd.src_desc())},
             {DNNL_ARG_WEIGHTS, Filled(pd.weights_desc())},
             {DNNL_ARG_DST, Filled(pd.dst_desc())}};
  }

  double Gflops() {
    const auto seconds = [&](int calls) {
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < calls; ++i) primitive_.execute(stream_, args_);
      stream_.wait();
      const std::chrono::duration<double> elapsed =
          std::chrono::steady_clock::now() - start;
      return elapsed.count() / calls;
    };
    const double once = seconds(1);
    const int calls = std::max(1, static_cast<int>(0.03 / once));
    return flops_ * 1e-9 / seconds(calls);
  }

 private:
  // With numbers near 0.01 in either type: a product of zeros takes less power
  // and runs faster.
  memory Filled(const memory::desc& desc) {
    memory m(desc, engine_);
    auto* half = static_cast<uint16_t*>(m.get_data_handle());
    const size_t n = desc.get_size() / 2;
    for (size_t i = 0; i < n; ++i) half[i] = 0x3c00 + i * 611 % 256;
    return m;
  }

  double flops_;
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul primitive_;
  std::unordered_map<int, memory> args_;
};

struct Layer {
  const char* name;
  int64_t n, k;  // y [M, N] = x [M, K] W [N, K]^T
};

BenchRow Row(const std::string& op, const std::string& shape, int64_t m,
             int64_t n, int64_t k, DType in, DType out,
             std::function<void()> run) {
  BenchRow row;
  row.op = op;
  row.shape = shape;
  row.unit = "GFLOP/s";
  row.work = 2e-9 * m * n * k;
  row.run = std::move(run);
  row.limit_name = "oneDNN's best";
  auto best = std::make_shared<FreeLayouts>(m, n, k, in, out);
  row.limit = [best] { return best->Gflops(); };
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
  rows->push_back(
      {"matmul dw " + shape, [=] {
         BenchPool pool;
         const MatView x = pool.Matrix(m, k, dtype, -1, 1);
         const MatView dy = pool.Matrix(m, n, dtype, -1, 1);
         const MatView dw = pool.Matrix(n, k, DType::kF32, 0, 0);
         return Row("matmul dw", shape, n, k, m, dtype, DType::kF32, [=] {
           MatMul({dy, true, x, false, dw, Write::kAccumulate, nullptr});
         });
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
         return row;
       }});
}

}  // namespace

void AddMatMulRows(std::vector<BenchRowMaker>* rows) {
  const Layer in = {"in_proj", 3072, 768}, x = {"x_proj", 80, 1536},
              dt = {"dt_proj", 1536, 48}, out = {"out_proj", 768, 1536},
              head = {"head", 50280, 768};
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (const Layer& layer : {in, x, dt, out}) {
      AddLayer(rows, layer, 2048, dtype);
    }
    AddLayer(rows, head, 256, dtype);
    for (const Layer& layer : {in, x, dt, out, head}) {
      AddVector(rows, layer, 1, dtype);
    }
    AddVector(rows, in, 4, dtype);
  }
}

}  // namespace carry
