// Kernels that memory limits: the bytes they must move, against a copy.

#include <algorithm>
#include <memory>

#include "kernels/adamw.h"
#include "kernels/bench/rows.h"
#include "kernels/bench/yardsticks.h"
#include "kernels/causal_conv1d.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/rms_norm.h"

namespace carry {
namespace {

constexpr int64_t kRows = 2048, kDim = 768, kChannels = 1536;
// Sets of arrays that calls go through in turn, so that each comes from memory.
constexpr int kSets = 6;
// Shares of the copy's bandwidth that a pass has to reach, and the optimizer.
constexpr double kPassBar = 0.7, kOptimizerBar = 0.75;

double BestCopy() {
  return std::max(CopyBandwidth(false), CopyBandwidth(true));
}

// `make(pool)` gives one set's call; `bytes` is what a call moves.
template <class Make>
void Add(std::vector<BenchRowMaker>* rows, const std::string& op,
         const std::string& shape, double bytes, int sets, const Make& make,
         double bar = kPassBar, double (*limit)() = BestCopy,
         const char* limit_name = "copy") {
  rows->push_back({op + " " + shape, [=] {
                     BenchPool pool;
                     auto calls =
                         std::make_shared<std::vector<std::function<void()>>>();
                     for (int i = 0; i < sets; ++i)
                       calls->push_back(make(&pool));
                     BenchRow row;
                     row.op = op;
                     row.shape = shape;
                     row.unit = "GB/s";
                     row.work = bytes * 1e-9;
                     row.run = [calls, i = 0]() mutable {
                       (*calls)[i++ % calls->size()]();
                     };
                     row.limit_name = limit_name;
                     row.limit = limit;
                     row.bar = bar;
                     return row;
                   }});
}

void AddConv(std::vector<BenchRowMaker>* rows, DType dtype) {
  const std::string shape = std::string(ShortName(dtype)) + " R2048 E1536 K4";
  const double array = 1.0 * kRows * kChannels * SizeOf(dtype);
  const auto args = [dtype](BenchPool* pool) {
    CausalConv1dArgs args = {1,
                             kRows,
                             kChannels,
                             4,
                             pool->Matrix(kRows, kChannels, dtype, -1, 1),
                             pool->Floats(kChannels * 4, -1, 1),
                             pool->Floats(kChannels, -1, 1),
                             pool->Floats(kChannels * 3, -1, 1),
                             nullptr};
    return args;
  };
  Add(rows, "conv forward", shape, 2 * array, kSets, [=](BenchPool* pool) {
    const CausalConv1dArgs a = args(pool);
    const MatView y = pool->Matrix(kRows, kChannels, dtype, 0, 0);
    float* carry = pool->Floats(kChannels * 3, 0, 0);
    return [=] { CausalConv1dForward(a, {y, carry}); };
  });
  Add(rows, "conv backward", shape, 3 * array, kSets, [=](BenchPool* pool) {
    const CausalConv1dArgs a = args(pool);
    const CausalConv1dBackwardArgs grad = {
        pool->Matrix(kRows, kChannels, dtype, -1, 1),
        nullptr,
        pool->Matrix(kRows, kChannels, dtype, 0, 0),
        pool->Floats(kChannels * 4, 0, 0),
        pool->Floats(kChannels, 0, 0),
        pool->Floats(kChannels * 3, 0, 0)};
    return [=] { CausalConv1dBackward(a, grad); };
  });
}

void AddNorm(std::vector<BenchRowMaker>* rows, DType dtype) {
  const std::string shape = std::string(ShortName(dtype)) + " R2048 D768";
  const double n = 1.0 * kRows * kDim, size = SizeOf(dtype);
  Add(rows, "norm forward", shape, n * (8 + 2 * size), 2 * kSets,
      [=](BenchPool* pool) {
        const RmsNormForwardArgs args = {
            pool->Floats(kRows * kDim, -1, 1),
            pool->Matrix(kRows, kDim, dtype, -1, 1),
            pool->Floats(kDim, 0, 1),
            1e-5f,
            pool->Floats(kRows * kDim, 0, 0),
            pool->Matrix(kRows, kDim, dtype, 0, 0),
            pool->Floats(kRows, 0, 0)};
        return [=] { RmsNormForward(args); };
      });
  // dy, dsum, sum in; dresidual over dsum, ddelta out.
  const double back = n * (12 + size + (dtype == DType::kF32 ? 0 : size));
  Add(rows, "norm backward", shape, back, 2 * kSets, [=](BenchPool* pool) {
    float* dsum = pool->Floats(kRows * kDim, -1, 1);
    const MatView ddelta = dtype == DType::kF32
                               ? MatView()
                               : pool->Matrix(kRows, kDim, dtype, 0, 0);
    const RmsNormBackwardArgs args = {pool->Matrix(kRows, kDim, dtype, -1, 1),
                                      dsum,
                                      pool->Floats(kRows * kDim, -1, 1),
                                      pool->Floats(kRows, 1, 1),
                                      pool->Floats(kDim, 0, 1),
                                      dsum,
                                      ddelta,
                                      pool->Floats(kDim, 0, 0)};
    return [=] { RmsNormBackward(args); };
  });
}

void AddCrossEntropy(std::vector<BenchRowMaker>* rows, int64_t count,
                     int64_t vocab, DType dtype) {
  const std::string shape = std::string(ShortName(dtype)) + " R" +
                            std::to_string(count) + " V" +
                            std::to_string(vocab);
  Add(rows, "cross-entropy", shape, 1.0 * count * vocab * (4 + SizeOf(dtype)),
      2, [=](BenchPool* pool) {
        const MatView x = pool->Matrix(count, vocab, DType::kF32, -5, 5);
        MatView dx = x;
        dx.dtype = dtype;
        dx.stride = vocab * 4 / SizeOf(dtype);
        float* nll = pool->Floats(count, 0, 0);
        auto targets = std::make_shared<std::vector<int32_t>>(count, 7);
        return [=] { CrossEntropy(x, targets->data(), 1.0f, dx, nll); };
      });
}

void AddFlat(std::vector<BenchRowMaker>* rows) {
  constexpr int64_t n = 32 << 20;
  Add(
      rows, "adamw", "32M parameters", 28.0 * n, 1,
      [=](BenchPool* pool) {
        const AdamWArgs args = {n,
                                pool->Floats(n, -1, 1),
                                pool->Floats(n, -1, 1),
                                pool->Floats(n, 0, 0),
                                pool->Floats(n, 0, 0),
                                1e-3f,
                                0.9f,
                                0.95f,
                                1e-8f,
                                0.1f,
                                0.5f,
                                0.5f,
                                1.0f};
        return [=] { AdamW(args); };
      },
      kOptimizerBar);
  Add(
      rows, "sum of squares", "32M", 4.0 * n, 1,
      [=](BenchPool* pool) {
        const float* x = pool->Floats(n, -1, 1);
        return [=] {
          volatile double sum = SumOfSquares(x, n);
          (void)sum;
        };
      },
      kOptimizerBar, ReadBandwidth, "read");
  Add(rows, "add to", "fp32 32M", 12.0 * n, 1, [=](BenchPool* pool) {
    float* x = pool->Floats(n, -1, 1);
    const float* y = pool->Floats(n, -1, 1);
    return [=] { AddTo(x, y, DType::kF32, n); };
  });
  Add(
      rows, "scale", "fp32 32M", 8.0 * n, 1,
      [=](BenchPool* pool) {
        float* x = pool->Floats(n, -1, 1);
        return [=] { Scale(x, 1.0f, n); };
      },
      kOptimizerBar);
  Add(rows, "cast", "fp32 to bf16 32M", 6.0 * n, 1, [=](BenchPool* pool) {
    const float* x = pool->Floats(n, -1, 1);
    float* y = pool->Floats(n / 2, -1, 1);
    return [=] { Cast(x, DType::kF32, y, DType::kBF16, n); };
  });
}

void AddEmbedding(std::vector<BenchRowMaker>* rows) {
  const auto tokens = [] {
    auto ids = std::make_shared<std::vector<int32_t>>(kRows);
    for (int64_t i = 0; i < kRows; ++i) (*ids)[i] = i * 7919 % 50280;
    return ids;
  };
  constexpr int64_t kVocab = 50280;
  Add(rows, "embedding forward", "R2048 D768", 8.0 * kRows * kDim, 1,
      [=](BenchPool* pool) {
        const auto ids = tokens();
        const float* table = pool->Floats(kVocab * kDim, -1, 1);
        float* out = pool->Floats(kRows * kDim, 0, 0);
        return [=] { EmbeddingForward(ids->data(), kRows, table, kDim, out); };
      });
  Add(rows, "embedding backward", "R2048 D768", 12.0 * kRows * kDim, 1,
      [=](BenchPool* pool) {
        const auto ids = tokens();
        float* table = pool->Floats(kVocab * kDim, 0, 0);
        const float* dout = pool->Floats(kRows * kDim, -1, 1);
        return [=] {
          EmbeddingBackward(ids->data(), kRows, dout, kVocab, kDim, table);
        };
      });
}

}  // namespace

void AddStreamingRows(std::vector<BenchRowMaker>* rows) {
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    AddConv(rows, dtype);
    AddNorm(rows, dtype);
    AddCrossEntropy(rows, 512, 50280, dtype);
    AddCrossEntropy(rows, 16384, 256, dtype);
  }
  AddFlat(rows);
  AddEmbedding(rows);
}

}  // namespace carry
