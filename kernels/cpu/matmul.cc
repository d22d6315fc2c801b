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
#include "kernels/cpu/parts.h"
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
// fp32 slices gain nothing, nor for few rows; in narrow products the copies
// cost more, and with fewer terms they do with one thread.
constexpr int64_t kSlice = 1024;
constexpr int64_t kSliceTerms = 4 * kSlice, kSliceRows = 128,
                  kSliceColumns = 512;

bool TakesSlices(DType dtype, int64_t rows, int64_t n, int64_t k) {
  return dtype == DType::kBF16 && rows >= kSliceRows && n >= kSliceColumns &&
         k >= kSliceTerms && HasAmxBf16();
}

// Up to the next line.
int64_t Aligned(int64_t bytes) { return (bytes + 63) / 64 * 64; }

}  // namespace

struct PackedWeight::Impl {
  bool transpose;
  DType dtype;   // As asked for.
  DType held;    // As packed: fp32 on a CPU without bf16 products.
  int64_t n, k;  // y [., n] = x [., k] op(W).
  memory::desc desc;
  memory packed;
  int64_t layout = 0;  // 0: [N, K] as it is, for products of a few rows.
  int64_t pad = 0;     // Zeros behind K where the library dies of K itself.
  bool thin = false;   // As ThinProduct takes it; no `packed`.
  // Or kSlice of K each; no `packed`.
  std::vector<std::unique_ptr<Impl>> slices;
  void* data = nullptr;
  Pages pages;  // What `data` points into, unless it is a slice's.

  // How to pack, for products of `rows` rows.
  static std::unique_ptr<Impl> Choose(int64_t n, int64_t k, bool transpose,
                                      DType dtype, int64_t rows);
  int64_t Bytes() const;
  void Place(void* at);
  void Pack(const ConstMatView& w) const;

  // The i-th of SliceCount slices of K; the last has the rest, half a slice at
  // least.
  static int64_t SliceCount(int64_t k) { return (k + kSlice / 2) / kSlice; }
  int64_t SliceEnd(int64_t i) const {
    return i + 1 == SliceCount(k) ? k : (i + 1) * kSlice;
  }
  ConstMatView Slice(const ConstMatView& w, int64_t i) const {
    return transpose ? ColumnsOf(w, i * kSlice, SliceEnd(i))
                     : RowsOf(w, i * kSlice, SliceEnd(i));
  }

  ConstMatView Shape() const {  // Of W with its padding; no data.
    const int64_t depth = k + pad;
    return {nullptr, held, transpose ? n : depth, transpose ? depth : n,
            transpose ? depth : n};
  }
};

std::unique_ptr<PackedWeight::Impl> PackedWeight::Impl::Choose(
    int64_t n, int64_t k, bool transpose, DType dtype, int64_t rows) {
  auto impl = std::make_unique<Impl>();
  impl->transpose = transpose;
  impl->dtype = impl->held = dtype;
  impl->n = n, impl->k = k;
  if (transpose && rows <= kFewRows) {
    impl->desc = DescribeMatrix(impl->Shape(), true);
    return impl;
  }
  if (dtype == DType::kBF16 && TakesThinProduct(n, k)) {
    impl->thin = true;
    return impl;
  }
  if (TakesSlices(dtype, rows, n, k)) {
    for (int64_t i = 0; i < SliceCount(k); ++i) {
      const int64_t depth = impl->SliceEnd(i) - i * kSlice;
      impl->slices.push_back(Choose(n, depth, transpose, dtype, rows));
    }
    return impl;
  }
  impl->pad = DnnlDies(dtype, k) ? 1 : 0;
  std::optional<memory::desc> best = BestLayout(rows, n, k + impl->pad, dtype);
  TileLayout tiles;  // PackTiles writes zeros behind K.
  if (!best.has_value() || (impl->pad != 0 && !DescribeTiles(*best, &tiles))) {
    impl->pad = 0;
    impl->held = DType::kF32;
    best = BestLayout(rows, n, k, DType::kF32);
  }
  CARRY_CHECK(best.has_value());
  impl->desc = *best;
  impl->layout = LayoutId(*best);
  return impl;
}

int64_t PackedWeight::Impl::Bytes() const {
  if (thin) return ThinWeightBytes(n, k);
  if (slices.empty()) return static_cast<int64_t>(desc.get_size());
  int64_t sum = 0;
  for (const auto& slice : slices) sum += Aligned(slice->Bytes());
  return sum;
}

void PackedWeight::Impl::Place(void* at) {
  data = at;
  if (!thin && slices.empty()) packed = memory(desc, DnnlEngine(), at);
  char* next = static_cast<char*>(at);
  for (const auto& slice : slices) {
    slice->Place(next);
    next += Aligned(slice->Bytes());
  }
}

void PackedWeight::Impl::Pack(const ConstMatView& w) const {
  if (thin) return PackThinWeight(w, transpose, data);
  if (!slices.empty()) {
    for (size_t i = 0; i < slices.size(); ++i) {
      slices[i]->Pack(Slice(w, static_cast<int64_t>(i)));
    }
    return;
  }
  TileLayout tiles;
  if (DescribeTiles(desc, &tiles) &&
      (w.dtype == DType::kF32 || w.dtype == tiles.dtype)) {
    return PackTiles(w, transpose, tiles, ShouldStreamTiles(Bytes()), data);
  }
  memory from(DescribeMatrix(w, transpose), DnnlEngine(),
              const_cast<void*>(w.data));
  memory to = packed;
  dnnl::reorder(from, to).execute(DnnlStream(), from, to);
  DnnlStream().wait();
}

namespace {

void CheckShape(const ConstMatView& w, const PackedWeight::Impl& impl) {
  CARRY_CHECK((impl.transpose ? w.rows : w.cols) == impl.n);
  CARRY_CHECK((impl.transpose ? w.cols : w.rows) == impl.k);
}

}  // namespace

PackedWeight::PackedWeight(ConstMatView w, bool transpose, DType dtype,
                           int64_t rows_hint) {
  const int64_t n = transpose ? w.rows : w.cols;
  const int64_t k = transpose ? w.cols : w.rows;
  CARRY_CHECK(n > 0 && k > 0 && rows_hint > 0);
  impl_ = Impl::Choose(n, k, transpose, dtype, rows_hint);
  impl_->pages = Pages(impl_->Bytes());
  impl_->Place(impl_->pages.data());
  Update(w);
}

PackedWeight::~PackedWeight() = default;

int64_t PackedWeight::bytes() const { return impl_->Bytes(); }

void PackedWeight::Update(ConstMatView w) {
  CheckShape(w, *impl_);
  impl_->Pack(w);
}

namespace {

// Rows of a weight that are packed twice while they are in the L2 caches: so
// many bytes a thread, and a whole part of a slice.
constexpr int64_t kBlockBytes = int64_t{1} << 20, kLeastBlock = 64;

int64_t BlockRows(const ConstMatView& w) {
  const int64_t fit = NumThreads() * kBlockBytes / (w.cols * 4);
  int64_t rows = kSlice;
  while (rows > kLeastBlock && rows > fit) rows /= 2;
  return rows;
}

// Whether PackRows will do.
bool PacksRows(const PackedWeight::Impl& impl) {
  if (!impl.slices.empty()) {
    return std::all_of(impl.slices.begin(), impl.slices.end(),
                       [](const auto& slice) { return PacksRows(*slice); });
  }
  TileLayout tiles;
  return !impl.thin && impl.layout != 0 && DescribeTiles(impl.desc, &tiles) &&
         kLeastBlock % (impl.transpose ? tiles.columns : tiles.rows) == 0;
}

// Packs w's rows [begin, end), which begin at a multiple of kLeastBlock and do
// not cross a multiple of kSlice.
void PackRows(const ConstMatView& w, int64_t begin, int64_t end,
              const PackedWeight::Impl& impl) {
  if (!impl.slices.empty() && impl.transpose) {
    for (size_t i = 0; i < impl.slices.size(); ++i) {
      PackRows(impl.Slice(w, static_cast<int64_t>(i)), begin, end,
               *impl.slices[i]);
    }
    return;
  }
  if (!impl.slices.empty()) {
    const int64_t i =
        std::min(begin / kSlice, PackedWeight::Impl::SliceCount(impl.k) - 1);
    const int64_t first = i * kSlice;
    return PackRows(impl.Slice(w, i), begin - first, end - first,
                    *impl.slices[i]);
  }
  TileLayout tiles;
  DescribeTiles(impl.desc, &tiles);
  const int64_t at = impl.transpose
                         ? begin / tiles.columns * tiles.column_stride
                         : begin / tiles.rows * tiles.row_stride;
  PackTiles(RowsOf(w, begin, end), impl.transpose, tiles, /*stream=*/true,
            static_cast<char*>(impl.data) + at * SizeOf(tiles.dtype));
}

}  // namespace

void PackedWeight::UpdateBoth(ConstMatView w, PackedWeight* y,
                              PackedWeight* dx) {
  CARRY_CHECK(y->impl().transpose && !dx->impl().transpose);
  CheckShape(w, y->impl());
  CheckShape(w, dx->impl());
  // A small one stays in the caches as it is.
  const int64_t block = BlockRows(w);
  if (w.dtype != DType::kF32 || w.rows <= block || !PacksRows(y->impl()) ||
      !PacksRows(dx->impl())) {
    y->Update(w);
    dx->Update(w);
    return;
  }
  for (int64_t begin = 0; begin < w.rows; begin += block) {
    const int64_t end = std::min(w.rows, begin + block);
    PackRows(w, begin, end, y->impl());
    PackRows(w, begin, end, dx->impl());
  }
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

// A dense copy with `pad` columns of zeros behind it.
MatView Padded(const ConstMatView& v, int64_t pad) {
  const int64_t cols = v.cols + pad, size = SizeOf(v.dtype);
  char* space = static_cast<char*>(WorkingCopy(kPaddedA, v.rows * cols * size));
  const MatView copy = {space, v.dtype, v.rows, cols, cols};
  CopyRows(v, {space, v.dtype, v.rows, v.cols, cols});
  for (int64_t r = 0; r < v.rows; ++r) {
    std::memset(space + (r * cols + v.cols) * size, 0, pad * size);
  }
  return copy;
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

void Multiply(const ConstMatView& a, const PackedWeight::Impl& impl,
              const MatView& c, Write write, const float* bias);

void MultiplySlices(const ConstMatView& a, const PackedWeight::Impl& impl,
                    const MatView& c, Write write, const float* bias) {
  MatView sum = c;
  if (c.dtype != DType::kF32) {
    sum = {WorkingCopy(kSumC, c.rows * c.cols * 4), DType::kF32, c.rows, c.cols,
           c.cols};
    if (write == Write::kAccumulate) CastRows(c, sum);
  }
  for (size_t i = 0; i < impl.slices.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const ConstMatView part = ColumnsOf(a, at * kSlice, impl.SliceEnd(at));
    const MatView dense = DenseSpace(part, kSliceOfA);
    CopyRows(part, dense);
    Multiply(dense, *impl.slices[i], sum, i == 0 ? write : Write::kAccumulate,
             i == 0 ? bias : nullptr);
  }
  if (c.dtype != DType::kF32) CastRows(sum, c);
}

// `a` in the packed type.
void MultiplyPacked(const ConstMatView& a, const PackedWeight::Impl& impl,
                    const MatView& c, Write write, const float* bias) {
  if (impl.thin) return ThinProduct(a, impl.data, c, write, bias);
  if (!impl.slices.empty()) return MultiplySlices(a, impl, c, write, bias);
  if (impl.pad != 0 && a.cols == impl.k) {
    return MultiplyPacked(Padded(a, impl.pad), impl, c, write, bias);
  }
  MatMulArgs args = {a, false, impl.Shape(), impl.transpose, c, write, bias};
  if (impl.layout == 0) {
    args.b.data = impl.data;
    if (a.rows > kFewRows) return MatMul(args);
    return VectorMatMul(a, args.b, c, write, bias);
  }
  DnnlProduct& product = FindProduct(args, impl.desc, impl.layout);
  if (product.usable() && !product.reference()) {
    args.b.data = impl.data;
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
  std::vector<char> plain(impl.n * (impl.k + impl.pad) * SizeOf(impl.held));
  args.b.data = plain.data();
  memory from = impl.packed;
  memory to(DescribeMatrix(args.b, impl.transpose), DnnlEngine(), plain.data());
  dnnl::reorder(from, to).execute(DnnlStream(), from, to);
  DnnlStream().wait();
  MatMul(args);
}

// `a` in the type asked for.
void Multiply(const ConstMatView& a, const PackedWeight::Impl& impl,
              const MatView& c, Write write, const float* bias) {
  if (impl.held == impl.dtype) return MultiplyPacked(a, impl, c, write, bias);
  FloatCopy copy(a);
  IntoFloat(c, [&](const MatView& c32) {
    MultiplyPacked(copy.view(), impl, c32, write, bias);
  });
}

}  // namespace

void MatMul(ConstMatView a, const PackedWeight& w, MatView c, Write write,
            const float* bias) {
  const PackedWeight::Impl& impl = w.impl();
  CARRY_CHECK(a.cols == impl.k && c.cols == impl.n && a.rows == c.rows);
  CARRY_CHECK(a.dtype == impl.dtype);
  if (c.rows > 0) Multiply(a, impl, c, write, bias);
}

}  // namespace carry
