// Matrix products: which of the ways there are takes which product.

#include "kernels/matmul.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "dnnl.hpp"
#include "kernels/check.h"
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/dnnl_product.h"
#include "kernels/cpu/matmul_gradient.h"
#include "kernels/cpu/matmul_thin.h"
#include "kernels/cpu/matmul_vector.h"
#include "kernels/cpu/pack_weight.h"
#include "kernels/cpu/pages.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"

namespace carry {
namespace {

using dnnl::memory;

// A copy of a view in fp32.
class FloatCopy {
 public:
  explicit FloatCopy(const ConstMatView& v) : values_(v.rows * v.cols) {
    const int64_t size = SizeOf(v.dtype);
    for (int64_t r = 0; r < v.rows; ++r) {
      Cast(static_cast<const char*>(v.data) + r * v.stride * size, v.dtype,
           values_.data() + r * v.cols, DType::kF32, v.cols);
    }
    view_ = {values_.data(), DType::kF32, v.rows, v.cols, v.cols};
  }
  MatView view() { return view_; }

 private:
  std::vector<float> values_;
  MatView view_;
};

// Calls multiply(c) with an fp32 C, for CPUs without bf16 products.
template <class Multiply>
void IntoFloat(const MatView& c, const Multiply& multiply) {
  if (c.dtype == DType::kF32) return multiply(c);
  FloatCopy copy(c);
  multiply(copy.view());
  for (int64_t r = 0; r < c.rows; ++r) {
    Cast(static_cast<const float*>(copy.view().data) + r * c.cols, DType::kF32,
         static_cast<BFloat16*>(c.data) + r * c.stride, DType::kBF16, c.cols);
  }
}

// K = 0.
void MultiplyEmpty(const MatMulArgs& args) {
  for (int64_t r = 0; r < args.c.rows; ++r) {
    for (int64_t n = 0; n < args.c.cols; ++n) {
      const float add = args.bias != nullptr ? args.bias[n] : 0.0f;
      const int64_t at = r * args.c.stride + n;
      if (args.c.dtype == DType::kF32) {
        float& c = static_cast<float*>(args.c.data)[at];
        c = args.write == Write::kAccumulate ? c + add : add;
      } else {
        BFloat16& c = static_cast<BFloat16*>(args.c.data)[at];
        const float old = args.write == Write::kAccumulate ? ToFloat(c) : 0.0f;
        c = ToBFloat16(old + add);
      }
    }
  }
}

void CheckShapes(const MatMulArgs& args) {
  const int64_t m = args.transpose_a ? args.a.cols : args.a.rows;
  const int64_t k = args.transpose_a ? args.a.rows : args.a.cols;
  const int64_t k_of_b = args.transpose_b ? args.b.cols : args.b.rows;
  const int64_t n = args.transpose_b ? args.b.rows : args.b.cols;
  CARRY_CHECK(m == args.c.rows && n == args.c.cols && k == k_of_b);
}

}  // namespace

void MatMul(const MatMulArgs& args) {
  CheckShapes(args);
  CARRY_CHECK(args.a.dtype == args.b.dtype);
  if (args.c.rows == 0 || args.c.cols == 0) return;
  if (args.a.rows == 0 || args.a.cols == 0) return MultiplyEmpty(args);
  if (TakesGradient(args)) return MultiplyGradient(args);
  DnnlProduct& product =
      FindProduct(args, DescribeMatrix(args.b, args.transpose_b), 0);
  if (product.usable()) {
    product.Run(args.a, args.b, args.bias, args.c.data);
    return;
  }
  // A CPU without bf16 products.
  CARRY_CHECK(args.a.dtype == DType::kBF16);
  FloatCopy a(args.a), b(args.b);
  IntoFloat(args.c, [&](const MatView& c) {
    MatMulArgs copy = args;
    copy.a = a.view();
    copy.b = b.view();
    copy.c = c;
    MatMul(copy);
  });
}

namespace {

// The more terms a product has, the more the library waits for memory with AMX:
// at K = 50,280 it makes 0.8 TFLOP/s in a training step, where slices of 1,024
// terms make 1.5, the dense copies of A included; at K = 8,192 1.5 and 1.8. In
// fp32 slices gain nothing, nor for few rows; in small or narrow products the
// copies cost more.
constexpr int64_t kSlice = 1024, kDeepWeight = 3 << 20;
constexpr int64_t kSliceRows = 128, kSliceColumns = 512;

bool TakesSlices(DType dtype, int64_t rows, int64_t n, int64_t k) {
  return dtype == DType::kBF16 && rows >= kSliceRows && n >= kSliceColumns &&
         k >= 2 * kSlice && k * n >= kDeepWeight && HasAmxBf16();
}

// Columns [begin, end) of a matrix.
ConstMatView Columns(const ConstMatView& v, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(v.data);
  return {data + begin * SizeOf(v.dtype), v.dtype, v.rows, end - begin,
          v.stride};
}

ConstMatView Rows(const ConstMatView& v, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(v.data);
  return {data + begin * v.stride * SizeOf(v.dtype), v.dtype, end - begin,
          v.cols, v.stride};
}

}  // namespace

struct PackedWeight::Impl {
  bool transpose;
  DType dtype;   // As asked for.
  DType held;    // As packed: fp32 on a CPU without bf16 products.
  int64_t n, k;  // y [., n] = x [., k] op(W).
  Pages pages;
  memory packed;       // In `pages`.
  int64_t layout = 0;  // 0: [N, K] as it is, for products of a few rows.
  bool thin = false;   // As ThinProduct takes it; no `packed`.
  // Or in kSlice of K each; no `packed`.
  std::vector<std::unique_ptr<PackedWeight>> slices;

  // K's [begin, end) of the i-th slice, of W.
  ConstMatView Slice(const ConstMatView& w, int64_t i) const {
    const int64_t begin = i * kSlice, end = std::min(k, begin + kSlice);
    return transpose ? Columns(w, begin, end) : Rows(w, begin, end);
  }
  void Allocate(const memory::desc& desc) {
    pages = Pages(static_cast<int64_t>(desc.get_size()));
    packed = memory(desc, DnnlEngine(), pages.data());
  }
  ConstMatView Shape() const {  // Of W; no data.
    return {nullptr, held, transpose ? n : k, transpose ? k : n,
            transpose ? k : n};
  }
};

PackedWeight::PackedWeight(ConstMatView w, bool transpose, DType dtype,
                           int64_t rows_hint)
    : impl_(std::make_unique<Impl>()) {
  Impl& impl = *impl_;
  impl.transpose = transpose;
  impl.dtype = impl.held = dtype;
  impl.n = transpose ? w.rows : w.cols;
  impl.k = transpose ? w.cols : w.rows;
  CARRY_CHECK(impl.n > 0 && impl.k > 0 && rows_hint > 0);
  if (transpose && rows_hint <= kFewRows) {
    impl.layout = 0;
    impl.Allocate(DescribeMatrix(impl.Shape(), true));
    Update(w);
    return;
  }
  if (dtype == DType::kBF16 && TakesThinProduct(impl.n, impl.k)) {
    impl.thin = true;
    impl.pages = Pages(ThinWeightBytes(impl.n, impl.k));
    Update(w);
    return;
  }
  if (TakesSlices(dtype, rows_hint, impl.n, impl.k)) {
    for (int64_t i = 0; i * kSlice < impl.k; ++i) {
      impl.slices.push_back(std::make_unique<PackedWeight>(
          impl.Slice(w, i), transpose, dtype, rows_hint));
    }
    return;
  }
  std::optional<memory::desc> best =
      BestLayout(rows_hint, impl.n, impl.k, dtype);
  if (!best.has_value()) {
    impl.held = DType::kF32;
    best = BestLayout(rows_hint, impl.n, impl.k, DType::kF32);
  }
  CARRY_CHECK(best.has_value());
  impl.Allocate(*best);
  impl.layout = LayoutId(*best);
  Update(w);
}

PackedWeight::~PackedWeight() = default;

int64_t PackedWeight::bytes() const {
  if (impl_->thin) return ThinWeightBytes(impl_->n, impl_->k);
  if (!impl_->slices.empty()) {
    int64_t sum = 0;
    for (const auto& slice : impl_->slices) sum += slice->bytes();
    return sum;
  }
  return static_cast<int64_t>(impl_->packed.get_desc().get_size());
}

void PackedWeight::Update(ConstMatView w) {
  const Impl& impl = *impl_;
  CARRY_CHECK((impl.transpose ? w.rows : w.cols) == impl.n);
  CARRY_CHECK((impl.transpose ? w.cols : w.rows) == impl.k);
  if (impl.thin) return PackThinWeight(w, impl.transpose, impl.pages.data());
  if (!impl.slices.empty()) {
    for (size_t i = 0; i < impl.slices.size(); ++i) {
      impl.slices[i]->Update(impl.Slice(w, static_cast<int64_t>(i)));
    }
    return;
  }
  TileLayout tiles;
  if (w.dtype == DType::kF32 && DescribeTiles(impl.packed.get_desc(), &tiles)) {
    return PackTiles(w, impl.transpose, tiles, impl.pages.data());
  }
  memory from(DescribeMatrix(w, impl.transpose), DnnlEngine(),
              const_cast<void*>(w.data));
  memory to = impl.packed;
  dnnl::reorder(from, to).execute(DnnlStream(), from, to);
  DnnlStream().wait();
}

namespace {

bool Dense(const ConstMatView& v) { return v.stride == v.cols; }

// Room for a matrix like `v` with its rows next to each other.
MatView DenseSpace(const ConstMatView& v, WorkingCopyOf which) {
  void* space = WorkingCopy(which, v.rows * v.cols * SizeOf(v.dtype));
  return {space, v.dtype, v.rows, v.cols, v.cols};
}

void CopyRows(const ConstMatView& from, const MatView& to) {
  const int64_t size = SizeOf(to.dtype);
  ParallelFor(to.rows, [&](int64_t r) {
    std::memcpy(static_cast<char*>(to.data) + r * to.stride * size,
                static_cast<const char*>(from.data) + r * from.stride * size,
                to.cols * size);
  });
}

// Each rounded to the other's type where they differ.
void CastRows(const ConstMatView& from, const MatView& to) {
  ParallelFor(to.rows, [&](int64_t r) {
    Cast(static_cast<const char*>(from.data) +
             r * from.stride * SizeOf(from.dtype),
         from.dtype,
         static_cast<char*>(to.data) + r * to.stride * SizeOf(to.dtype),
         to.dtype, to.cols);
  });
}

void MultiplySlices(const ConstMatView& a, const PackedWeight::Impl& impl,
                    const MatView& c, Write write, const float* bias) {
  MatView sum = c;
  if (c.dtype != DType::kF32) {
    sum = {WorkingCopy(kSumC, c.rows * c.cols * 4), DType::kF32, c.rows, c.cols,
           c.cols};
    if (write == Write::kAccumulate) CastRows(c, sum);
  }
  for (size_t i = 0; i < impl.slices.size(); ++i) {
    const int64_t begin = static_cast<int64_t>(i) * kSlice;
    const ConstMatView part =
        Columns(a, begin, std::min(a.cols, begin + kSlice));
    const MatView dense = DenseSpace(part, kSliceOfA);
    CopyRows(part, dense);
    MatMul(dense, *impl.slices[i], sum, i == 0 ? write : Write::kAccumulate,
           i == 0 ? bias : nullptr);
  }
  if (c.dtype != DType::kF32) CastRows(sum, c);
}

// `a` in the packed type.
void MultiplyPacked(const ConstMatView& a, const PackedWeight::Impl& impl,
                    const MatView& c, Write write, const float* bias) {
  if (impl.thin) return ThinProduct(a, impl.pages.data(), c, write, bias);
  if (!impl.slices.empty()) return MultiplySlices(a, impl, c, write, bias);
  MatMulArgs args = {a, false, impl.Shape(), impl.transpose, c, write, bias};
  if (impl.layout == 0) {
    args.b.data = impl.packed.get_data_handle();
    if (a.rows > kFewRows) return MatMul(args);
    return VectorMatMul(a, args.b, c, write, bias);
  }
  DnnlProduct& product = FindProduct(args, impl.packed.get_desc(), impl.layout);
  if (product.usable() && !product.reference()) {
    args.b.data = impl.packed.get_data_handle();
    product.Run(a, args.b, bias, c.data);
    return;
  }
  // The library's good primitives take dense operands only.
  if (!Dense(a)) {
    const MatView dense = DenseSpace(a, kDenseA);
    CopyRows(a, dense);
    return MultiplyPacked(dense, impl, c, write, bias);
  }
  if (!Dense(c)) {
    const MatView dense = DenseSpace(c, kDenseC);
    if (write == Write::kAccumulate) CopyRows(c, dense);
    MultiplyPacked(a, impl, dense, write, bias);
    return CopyRows(dense, c);
  }
  // No good primitive takes this layout for this many rows: unpack.
  std::vector<char> plain(impl.n * impl.k * SizeOf(impl.held));
  args.b.data = plain.data();
  memory from = impl.packed;
  memory to(DescribeMatrix(args.b, impl.transpose), DnnlEngine(), plain.data());
  dnnl::reorder(from, to).execute(DnnlStream(), from, to);
  DnnlStream().wait();
  MatMul(args);
}

}  // namespace

void MatMul(ConstMatView a, const PackedWeight& w, MatView c, Write write,
            const float* bias) {
  const PackedWeight::Impl& impl = w.impl();
  CARRY_CHECK(a.cols == impl.k && c.cols == impl.n && a.rows == c.rows);
  CARRY_CHECK(a.dtype == impl.dtype);
  if (c.rows == 0) return;
  if (impl.held == impl.dtype) return MultiplyPacked(a, impl, c, write, bias);
  FloatCopy copy(a);
  IntoFloat(c, [&](const MatView& c32) {
    MultiplyPacked(copy.view(), impl, c32, write, bias);
  });
}

}  // namespace carry
