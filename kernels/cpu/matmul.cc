// Matrix products through oneDNN: versions 2 and 3, primitives kept by shape.
//
// A primitive is built for one shape, layout and number of threads, and is
// executed by the thread that built it, so each thread keeps its own.

#include "kernels/matmul.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dnnl.hpp"
#include "kernels/check.h"
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

// Shapes a thread keeps; a training run has some tens, and the last chunks of
// sequences one more set each.
constexpr size_t kMaxProducts = 512;

dnnl::engine& Engine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

memory::data_type TypeOf(DType dtype) {
  CARRY_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? memory::data_type::f32
                              : memory::data_type::bf16;
}

// [rows, cols] of op(view).
memory::desc Describe(const ConstMatView& v, bool transpose) {
  if (transpose) {
    return {{v.cols, v.rows}, TypeOf(v.dtype), memory::dims{1, v.stride}};
  }
  return {{v.rows, v.cols}, TypeOf(v.dtype), memory::dims{v.stride, 1}};
}

// Layouts that PackedWeights have, so that one number stands for each.
int64_t LayoutId(const memory::desc& desc) {
  static std::mutex mutex;
  static auto* layouts = new std::vector<memory::desc>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = std::find(layouts->begin(), layouts->end(), desc);
  if (it != layouts->end()) return it - layouts->begin() + 1;
  layouts->push_back(desc);
  return static_cast<int64_t>(layouts->size());
}

// The tiles of a blocked layout of B [K, N] that PackTiles knows.
bool DescribeTiles(const memory::desc& desc, TileLayout* tiles) {
#if DNNL_VERSION_MAJOR >= 3
  if (desc.get_format_kind() != memory::format_kind::blocked) return false;
  const int64_t blocks = desc.get_inner_nblks();
  const memory::dims sizes = desc.get_inner_blks();
  const memory::dims dims = desc.get_inner_idxs();
  const memory::dims strides = desc.get_strides();
  const bool extra = desc.get_submemory_offset() != 0;
#else
  if (desc.data.format_kind != dnnl_blocked) return false;
  const auto& blocking = desc.data.format_desc.blocking;
  const int64_t blocks = blocking.inner_nblks;
  const auto& sizes = blocking.inner_blks;
  const auto& dims = blocking.inner_idxs;
  const auto& strides = blocking.strides;
  const bool extra = desc.data.extra.flags != 0 || desc.data.offset0 != 0;
#endif
  if (extra || blocks < 2 || blocks > 3 || dims[0] != 0 || dims[1] != 1 ||
      (blocks == 3 && dims[2] != 0)) {
    return false;
  }
  tiles->dtype =
      desc.data_type() == memory::data_type::bf16 ? DType::kBF16 : DType::kF32;
  tiles->pair = blocks == 3 ? sizes[2] : 1;
  tiles->rows = sizes[0] * tiles->pair;
  tiles->columns = sizes[1];
  tiles->row_stride = strides[0];
  tiles->column_stride = strides[1];
  return CanPackTiles(*tiles);
}

dnnl::matmul::primitive_desc MakeDescriptor(const memory::desc& a,
                                            const memory::desc& b,
                                            const memory::desc& c, bool bias,
                                            bool accumulate) {
  dnnl::primitive_attr attr;
  if (accumulate) {
    dnnl::post_ops ops;
    ops.append_sum(1.0f);
    attr.set_post_ops(ops);
  }
  const memory::desc bias_desc({1, c.dims()[1]}, memory::data_type::f32,
                               memory::dims{c.dims()[1], 1});
#if DNNL_VERSION_MAJOR >= 3
  if (bias) {
    return {Engine(), a, b, bias_desc, c, attr, /*allow_empty=*/true};
  }
  return {Engine(), a, b, c, attr, /*allow_empty=*/true};
#else
  const dnnl::matmul::desc desc = bias ? dnnl::matmul::desc(a, b, bias_desc, c)
                                       : dnnl::matmul::desc(a, b, c);
  return {desc, attr, Engine(), /*allow_empty=*/true};
#endif
}

bool Usable(const dnnl::matmul::primitive_desc& pd) {
  return static_cast<bool>(pd);
}

// oneDNN's unoptimised loops, which any layout falls back to.
bool IsReference(const dnnl::matmul::primitive_desc& pd) {
  return std::string(pd.impl_info_str()).rfind("ref", 0) == 0;
}

// Working copies that a thread keeps for products whose operands the library
// wants in another layout.
void* WorkingCopy(int which, int64_t bytes) {
  thread_local Pages copies[4];
  if (copies[which].bytes() < bytes) copies[which] = Pages(bytes);
  return copies[which].data();
}

// One operand: where it comes as the library takes it, its memory, else a copy
// in that layout.
class Operand {
 public:
  Operand() = default;
  // `which` of the thread's working copies. `transpose`: op of the views that
  // Bind gets.
  Operand(const memory::desc& given, const memory::desc& taken, bool transpose,
          int which)
      : given_(given, Engine(), nullptr),
        taken_(taken, Engine(), nullptr),
        transpose_(transpose),
        which_(which) {
    if (given == taken) return;
    const bool same_type = given.data_type() == taken.data_type();
    if (same_type && DescribeTiles(taken, &tiles_)) {
      how_ = How::kTiles;
    } else if (same_type && transpose &&
               TypeOf(DType::kBF16) == given.data_type()) {
      how_ = How::kTranspose;
    } else {
      how_ = How::kReorder;
      reorder_ = dnnl::reorder(given_, taken_);
    }
  }

  void Bind(const ConstMatView& v, dnnl::stream& stream) {
    if (how_ == How::kAsItIs) {
      return taken_.set_data_handle(const_cast<void*>(v.data));
    }
    void* copy =
        WorkingCopy(which_, static_cast<int64_t>(taken_.get_desc().get_size()));
    taken_.set_data_handle(copy);
    if (how_ == How::kTiles) return PackTiles(v, transpose_, tiles_, copy);
    // The library's reorder takes four times as long.
    if (how_ == How::kTranspose) {
      return TransposeBf16(v, static_cast<BFloat16*>(copy));
    }
    given_.set_data_handle(const_cast<void*>(v.data));
    reorder_.execute(stream, given_, taken_);
  }
  const memory& taken() const { return taken_; }

 private:
  enum class How { kAsItIs, kTiles, kTranspose, kReorder };
  memory given_, taken_;
  bool transpose_ = false;
  int which_ = 0;
  How how_ = How::kAsItIs;
  TileLayout tiles_;
  dnnl::reorder reorder_;
};

// A primitive with its arguments; empty where the library has none.
class Product {
 public:
  // a and b as they come, which need not be as `pd` takes them.
  Product(const dnnl::matmul::primitive_desc& pd, const memory::desc& a,
          bool transpose_a, const memory::desc& b, bool transpose_b,
          bool bias) {
    if (!Usable(pd)) return;
    usable_ = true;
    reference_ = IsReference(pd);
    primitive_ = dnnl::matmul(pd);
    a_ = Operand(a, pd.src_desc(), transpose_a, 0);
    b_ = Operand(b, pd.weights_desc(), transpose_b, 1);
    c_ = memory(pd.dst_desc(), Engine(), nullptr);
    args_ = {{DNNL_ARG_SRC, a_.taken()},
             {DNNL_ARG_WEIGHTS, b_.taken()},
             {DNNL_ARG_DST, c_}};
    if (bias) {
      bias_ = memory(pd.bias_desc(), Engine(), nullptr);
      args_.emplace(DNNL_ARG_BIAS, bias_);
    }
  }

  bool usable() const { return usable_; }
  bool reference() const { return reference_; }

  void Run(const ConstMatView& a, const ConstMatView& b, const float* bias,
           void* c, dnnl::stream& stream) {
    a_.Bind(a, stream);
    b_.Bind(b, stream);
    c_.set_data_handle(c);
    if (bias != nullptr) bias_.set_data_handle(const_cast<float*>(bias));
    primitive_.execute(stream, args_);
    stream.wait();
  }

 private:
  bool usable_ = false;
  bool reference_ = false;
  dnnl::matmul primitive_;
  Operand a_, b_;
  memory c_, bias_;
  std::unordered_map<int, memory> args_;
};

struct ThreadState {
  dnnl::stream stream{Engine()};
  // By (M, N, K, strides, dtypes, flags, layout, threads).
  std::map<std::array<int64_t, 9>, Product> products;
};

ThreadState& State() {
  thread_local ThreadState state;
  return state;
}

// A weight's gradient, dy^T x, has both operands the wrong way round. Where all
// dimensions are large, a repacked copy of x costs less than it gains, 5 to 9%
// in fp32. In bf16 the library has only slow loops without it, so that narrower
// ones gain too.
bool RepackPays(const MatMulArgs& args) {
  constexpr int64_t kLarge = 256;
  const int64_t least = args.a.dtype == DType::kBF16 ? 64 : kLarge;
  return args.transpose_a && !args.transpose_b && args.a.rows >= least &&
         args.c.rows >= least && args.c.cols >= kLarge;
}

// In bf16 the transposed dy too, by 15 to 25%.
bool TransposePays(const MatMulArgs& args) {
  return RepackPays(args) && args.a.dtype == DType::kBF16;
}

// The primitive for C = op(A) B, B as described; layout 0: plain.
Product& Find(const MatMulArgs& args, const memory::desc& b, int64_t layout) {
  const bool bias = args.bias != nullptr;
  const bool accumulate = args.write == Write::kAccumulate;
  const int64_t flags = args.transpose_a | args.transpose_b << 1 | bias << 2 |
                        accumulate << 3 |
                        static_cast<int64_t>(args.a.dtype) << 4 |
                        static_cast<int64_t>(args.c.dtype) << 8;
  const std::array<int64_t, 9> key = {
      args.c.rows,
      args.c.cols,
      args.transpose_a ? args.a.rows : args.a.cols,
      args.a.stride,
      args.b.stride,
      args.c.stride,
      flags,
      layout,
      NumThreads()};
  auto& products = State().products;
  const auto it = products.find(key);
  if (it != products.end()) return it->second;
  if (products.size() >= kMaxProducts) products.clear();
  const memory::desc a = Describe(args.a, args.transpose_a);
  memory::desc taken_a = a, taken_b = b;
  if (layout == 0 && RepackPays(args)) {
    taken_b = memory::desc(b.dims(), b.data_type(), memory::format_tag::any);
    if (TransposePays(args)) {
      taken_a = memory::desc(a.dims(), a.data_type(), memory::format_tag::ab);
    }
  }
  const auto pd = MakeDescriptor(taken_a, taken_b, Describe(args.c, false),
                                 bias, accumulate);
  return products
      .emplace(key, Product(pd, a, args.transpose_a, b, args.transpose_b, bias))
      .first->second;
}

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
  Product& product = Find(args, Describe(args.b, args.transpose_b), 0);
  if (product.usable()) {
    product.Run(args.a, args.b, args.bias, args.c.data, State().stream);
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

struct PackedWeight::Impl {
  bool transpose;
  DType dtype;   // As asked for.
  DType held;    // As packed: fp32 on a CPU without bf16 products.
  int64_t n, k;  // y [., n] = x [., k] op(W).
  Pages pages;
  memory packed;       // In `pages`.
  int64_t layout = 0;  // 0: [N, K] as it is, for products of a few rows.
  bool thin = false;   // As ThinProduct takes it; no `packed`.

  void Allocate(const memory::desc& desc) {
    pages = Pages(static_cast<int64_t>(desc.get_size()));
    packed = memory(desc, Engine(), pages.data());
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
    impl.Allocate(Describe(impl.Shape(), true));
    Update(w);
    return;
  }
  if (dtype == DType::kBF16 && TakesThinProduct(impl.n, impl.k)) {
    impl.thin = true;
    impl.pages = Pages(ThinWeightBytes(impl.n, impl.k));
    Update(w);
    return;
  }
  const auto describe = [&](DType type) {
    const memory::desc a({rows_hint, impl.k}, TypeOf(type),
                         memory::dims{impl.k, 1});
    const memory::desc b({impl.k, impl.n}, TypeOf(type),
                         memory::format_tag::any);
    const memory::desc c({rows_hint, impl.n}, TypeOf(type),
                         memory::dims{impl.n, 1});
    return MakeDescriptor(a, b, c, false, false);
  };
  auto pd = describe(dtype);
  if (!Usable(pd)) {
    impl.held = DType::kF32;
    pd = describe(DType::kF32);
  }
  CARRY_CHECK(Usable(pd));
  impl.Allocate(pd.weights_desc());
  impl.layout = LayoutId(pd.weights_desc());
  Update(w);
}

PackedWeight::~PackedWeight() = default;

int64_t PackedWeight::bytes() const {
  if (impl_->thin) return ThinWeightBytes(impl_->n, impl_->k);
  return static_cast<int64_t>(impl_->packed.get_desc().get_size());
}

void PackedWeight::Update(ConstMatView w) {
  const Impl& impl = *impl_;
  CARRY_CHECK((impl.transpose ? w.rows : w.cols) == impl.n);
  CARRY_CHECK((impl.transpose ? w.cols : w.rows) == impl.k);
  if (impl.thin) return PackThinWeight(w, impl.transpose, impl.pages.data());
  TileLayout tiles;
  if (w.dtype == DType::kF32 && DescribeTiles(impl.packed.get_desc(), &tiles)) {
    return PackTiles(w, impl.transpose, tiles, impl.pages.data());
  }
  memory from(Describe(w, impl.transpose), Engine(), const_cast<void*>(w.data));
  memory to = impl.packed;
  dnnl::reorder(from, to).execute(State().stream, from, to);
  State().stream.wait();
}

namespace {

bool Dense(const ConstMatView& v) { return v.stride == v.cols; }

// Room for a matrix like `v` with its rows next to each other.
MatView DenseSpace(const ConstMatView& v, int which) {
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

// `a` in the packed type.
void MultiplyPacked(const ConstMatView& a, const PackedWeight::Impl& impl,
                    const MatView& c, Write write, const float* bias) {
  if (impl.thin) return ThinProduct(a, impl.pages.data(), c, write, bias);
  MatMulArgs args = {a, false, impl.Shape(), impl.transpose, c, write, bias};
  if (impl.layout == 0) {
    args.b.data = impl.packed.get_data_handle();
    if (a.rows > kFewRows) return MatMul(args);
    return VectorMatMul(a, args.b, c, write, bias);
  }
  Product& product = Find(args, impl.packed.get_desc(), impl.layout);
  if (product.usable() && !product.reference()) {
    args.b.data = impl.packed.get_data_handle();
    product.Run(a, args.b, bias, c.data, State().stream);
    return;
  }
  // The library's good primitives take dense operands only.
  if (!Dense(a)) {
    const MatView dense = DenseSpace(a, 2);
    CopyRows(a, dense);
    return MultiplyPacked(dense, impl, c, write, bias);
  }
  if (!Dense(c)) {
    const MatView dense = DenseSpace(c, 3);
    if (write == Write::kAccumulate) CopyRows(c, dense);
    MultiplyPacked(a, impl, dense, write, bias);
    return CopyRows(dense, c);
  }
  // No good primitive takes this layout for this many rows: unpack.
  std::vector<char> plain(impl.n * impl.k * SizeOf(impl.held));
  args.b.data = plain.data();
  memory from = impl.packed;
  memory to(Describe(args.b, impl.transpose), Engine(), plain.data());
  dnnl::reorder(from, to).execute(State().stream, from, to);
  State().stream.wait();
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
