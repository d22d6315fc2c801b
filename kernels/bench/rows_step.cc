// Generation: one token through a layer, whose weights come from memory.

#include <memory>

#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/causal_conv1d.h"
#include "kernels/matmul.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"

namespace carry {
namespace {

constexpr int64_t kDim = 768, kInner = 1536, kStates = 16, kRank = 48,
                  kTaps = 4, kX = kRank + 2 * kStates;

// One layer of the published 130M shape and its recurrent state.
class Layer {
 public:
  Layer(BenchPool* pool, DType dtype) : dtype_(dtype) {
    const auto pack = [&](int64_t n, int64_t k) {
      BenchPool scratch = *pool;  // What packing reads is not kept.
      return std::make_unique<PackedWeight>(
          scratch.Matrix(n, k, DType::kF32, -0.1f, 0.1f), true, dtype, 1);
    };
    in_ = pack(2 * kInner, kDim);
    x_ = pack(kX, kInner);
    dt_ = pack(kInner, kRank);
    out_ = pack(kDim, kInner);
    norm_ = pool->Floats(kDim, 0, 1);
    residual_ = pool->Floats(kDim, -1, 1);
    conv_ = pool->Floats(kInner * kTaps, -1, 1);
    conv_bias_ = pool->Floats(kInner, -1, 1);
    conv_state_ = pool->Floats(kInner * (kTaps - 1), -1, 1);
    a_ = pool->Floats(kInner * kStates, -16, -1);
    d_ = pool->Floats(kInner, 0, 1);
    dt_bias_ = pool->Floats(kInner, -5, -1);
    state_ = pool->Floats(kInner * kStates, -1, 1);
    const auto row = [&](int64_t cols) {
      return pool->Matrix(1, cols, dtype, -1, 1);
    };
    delta_ = row(kDim), normed_ = row(kDim), xz_ = row(2 * kInner);
    u_ = row(kInner), dbc_ = row(kX), dt_raw_ = row(kInner), y_ = row(kInner);
  }

  // Bytes that a token cannot do without: weights, and states in and out.
  int64_t Bytes() const {
    const int64_t products =
        2 * kInner * kDim + kX * kInner + kInner * kRank + kDim * kInner;
    const int64_t floats = kInner * (kStates + kTaps + 3) + kDim +
                           2 * kInner * (kStates + kTaps - 1);
    return products * SizeOf(dtype_) + floats * 4;
  }

  void Step() {
    RmsNormForward(
        {residual_, delta_, norm_, 1e-5f, residual_, normed_, nullptr});
    MatMul(normed_, *in_, xz_, Write::kOverwrite, nullptr);
    const CausalConv1dArgs conv = {
        1,     1,          kInner,      kTaps,  Columns(xz_, 0, kInner),
        conv_, conv_bias_, conv_state_, nullptr};
    CausalConv1dForward(conv, {u_, conv_state_});
    MatMul(u_, *x_, dbc_, Write::kOverwrite, nullptr);
    MatMul(Columns(dbc_, 0, kRank), *dt_, dt_raw_, Write::kOverwrite, nullptr);
    const SelectiveScanArgs scan = {1,
                                    1,
                                    kInner,
                                    kStates,
                                    u_,
                                    dt_raw_,
                                    Columns(xz_, kInner, kInner),
                                    Columns(dbc_, kRank, kStates),
                                    Columns(dbc_, kRank + kStates, kStates),
                                    a_,
                                    d_,
                                    dt_bias_,
                                    state_,
                                    nullptr};
    SelectiveScanForward(scan, {y_, state_, nullptr});
    MatMul(y_, *out_, delta_, Write::kOverwrite, nullptr);
  }

 private:
  static MatView Columns(const MatView& v, int64_t first, int64_t cols) {
    return {static_cast<char*>(v.data) + first * SizeOf(v.dtype), v.dtype, 1,
            cols, v.stride};
  }

  DType dtype_;
  std::unique_ptr<PackedWeight> in_, x_, dt_, out_;
  float *norm_, *residual_, *conv_, *conv_bias_, *conv_state_, *a_, *d_,
      *dt_bias_, *state_;
  MatView delta_, normed_, xz_, u_, dbc_, dt_raw_, y_;
};

}  // namespace

void AddStepRows(std::vector<BenchRowMaker>* rows) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    const std::string op = "generation step";
    const std::string shape = std::string(ShortName(dtype)) + " a layer, D768";
    rows->push_back(
        {op + " " + shape, [=] {
           BenchPool pool;
           auto layers =
               std::make_shared<std::vector<std::unique_ptr<Layer>>>();
           for (int i = 0; i < 24; ++i) {
             layers->push_back(std::make_unique<Layer>(&pool, dtype));
           }
           BenchRow row;
           row.op = op;
           row.shape = shape;
           row.unit = "GB/s";
           row.work = 1e-9 * layers->front()->Bytes();
           row.run = [layers, i = 0]() mutable {
             (*layers)[i++ % layers->size()]->Step();
           };
           row.limit_name = "read";
           row.limit = ReadBandwidth;
           row.bar = 0.7;
           return row;
         }});
  }
}

}  // namespace carry
