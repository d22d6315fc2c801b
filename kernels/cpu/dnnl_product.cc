#include "kernels/cpu/dnnl_product.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "kernels/cpu/amx_tiles.h"
#include "kernels/cpu/pages.h"
#include "kernels/elementwise.h"
#include "kernels/parallel_for.h"

namespace carry {

using dnnl::memory;

namespace {

// Shapes a thread keeps; a training run has some tens, and the last chunks of
// sequences one more set each.
constexpr size_t kMaxProducts = 512;

memory::data_type TypeOf(DType dtype) {
  CARRY_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kF32 ? memory::data_type::f32
                              : memory::data_type::bf16;
}

// Not usable where the library has no such product.
dnnl::matmul::primitive_desc MakeDescriptor(const memory::desc& a,
                                            const memory::desc& b,
                                            const memory::desc& c, bool bias,
                                            bool accumulate) {
  const bool bf16 = a.data_type() == memory::data_type::bf16;
  if (DnnlDies(bf16 ? DType::kBF16 : DType::kF32, a.dims()[1])) return {};
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
    return {DnnlEngine(), a, b, bias_desc, c, attr, /*allow_empty=*/true};
  }
  return {DnnlEngine(), a, b, c, attr, /*allow_empty=*/true};
#else
  const dnnl::matmul::desc desc = bias ? dnnl::matmul::desc(a, b, bias_desc, c)
                                       : dnnl::matmul::desc(a, b, c);
  return {desc, attr, DnnlEngine(), /*allow_empty=*/true};
#endif
}

bool Usable(const dnnl::matmul::primitive_desc& pd) {
  return static_cast<bool>(pd);
}

// oneDNN's unoptimised loops, which any layout falls back to.
bool IsReference(const dnnl::matmul::primitive_desc& pd) {
  return std::string(pd.impl_info_str()).rfind("ref", 0) == 0;
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

struct ThreadState {
  dnnl::stream stream{DnnlEngine()};
  // By (M, N, K, strides, dtypes, flags, layout, threads).
  std::map<std::array<int64_t, 9>, DnnlProduct> products;
};

ThreadState& State() {
  thread_local ThreadState state;
  return state;
}

}  // namespace

bool DnnlDies(DType dtype, int64_t k) {
  return DNNL_VERSION_MAJOR < 3 && dtype == DType::kBF16 && k % 32 == 31 &&
         HasAmxBf16();
}

dnnl::engine& DnnlEngine() {
  static dnnl::engine* engine = new dnnl::engine(dnnl::engine::kind::cpu, 0);
  return *engine;
}

dnnl::stream& DnnlStream() { return State().stream; }

memory::desc DescribeMatrix(const ConstMatView& v, bool transpose) {
  if (transpose) {
    return {{v.cols, v.rows}, TypeOf(v.dtype), memory::dims{1, v.stride}};
  }
  return {{v.rows, v.cols}, TypeOf(v.dtype), memory::dims{v.stride, 1}};
}

int64_t LayoutId(const memory::desc& desc) {
  static std::mutex mutex;
  static auto* layouts = new std::vector<memory::desc>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto it = std::find(layouts->begin(), layouts->end(), desc);
  if (it != layouts->end()) return it - layouts->begin() + 1;
  layouts->push_back(desc);
  return static_cast<int64_t>(layouts->size());
}

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

std::optional<memory::desc> BestLayout(int64_t rows, int64_t n, int64_t k,
                                       DType dtype) {
  const memory::data_type type = TypeOf(dtype);
  const memory::desc a({rows, k}, type, memory::dims{k, 1});
  const memory::desc b({k, n}, type, memory::format_tag::any);
  const memory::desc c({rows, n}, type, memory::dims{n, 1});
  const auto pd = MakeDescriptor(a, b, c, false, false);
  if (!Usable(pd)) return std::nullopt;
  return pd.weights_desc();
}

void* WorkingCopy(WorkingCopyOf which, int64_t bytes) {
  thread_local Pages copies[kCopies];
  if (copies[which].bytes() < bytes) copies[which] = Pages(bytes);
  return copies[which].data();
}

DnnlOperand::DnnlOperand(const memory::desc& given, const memory::desc& taken,
                         bool transpose, WorkingCopyOf which)
    : given_(given, DnnlEngine(), nullptr),
      taken_(taken, DnnlEngine(), nullptr),
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

void DnnlOperand::Bind(const ConstMatView& v, dnnl::stream& stream) {
  if (how_ == How::kAsItIs) {
    return taken_.set_data_handle(const_cast<void*>(v.data));
  }
  void* copy =
      WorkingCopy(which_, static_cast<int64_t>(taken_.get_desc().get_size()));
  taken_.set_data_handle(copy);
  if (how_ == How::kTiles) {
    const bool stream =
        ShouldStreamTiles(v.rows * v.cols * SizeOf(tiles_.dtype));
    return PackTiles(v, transpose_, tiles_, stream, copy);
  }
  // The library's reorder takes four times as long.
  if (how_ == How::kTranspose) {
    return TransposeBf16(v, static_cast<BFloat16*>(copy));
  }
  given_.set_data_handle(const_cast<void*>(v.data));
  reorder_.execute(stream, given_, taken_);
}

DnnlProduct::DnnlProduct(const dnnl::matmul::primitive_desc& pd,
                         const memory::desc& a, bool transpose_a,
                         const memory::desc& b, bool transpose_b, bool bias) {
  if (!Usable(pd)) return;
  usable_ = true;
  reference_ = IsReference(pd);
  primitive_ = dnnl::matmul(pd);
  a_ = DnnlOperand(a, pd.src_desc(), transpose_a, kCopyOfA);
  b_ = DnnlOperand(b, pd.weights_desc(), transpose_b, kCopyOfB);
  c_ = memory(pd.dst_desc(), DnnlEngine(), nullptr);
  args_ = {{DNNL_ARG_SRC, a_.taken()},
           {DNNL_ARG_WEIGHTS, b_.taken()},
           {DNNL_ARG_DST, c_}};
  if (bias) {
    bias_ = memory(pd.bias_desc(), DnnlEngine(), nullptr);
    args_.emplace(DNNL_ARG_BIAS, bias_);
  }
}

void DnnlProduct::Run(const ConstMatView& a, const ConstMatView& b,
                      const float* bias, void* c) {
  dnnl::stream& stream = DnnlStream();
  a_.Bind(a, stream);
  b_.Bind(b, stream);
  c_.set_data_handle(c);
  if (bias != nullptr) bias_.set_data_handle(const_cast<float*>(bias));
  primitive_.execute(stream, args_);
  stream.wait();
}

DnnlProduct& FindProduct(const MatMulArgs& args, const memory::desc& b,
                         int64_t layout) {
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
  const memory::desc a = DescribeMatrix(args.a, args.transpose_a);
  memory::desc taken_a = a, taken_b = b;
  if (layout == 0 && RepackPays(args)) {
    taken_b = memory::desc(b.dims(), b.data_type(), memory::format_tag::any);
    if (TransposePays(args)) {
      taken_a = memory::desc(a.dims(), a.data_type(), memory::format_tag::ab);
    }
  }
  const auto pd = MakeDescriptor(
      taken_a, taken_b, DescribeMatrix(args.c, false), bias, accumulate);
  return products
      .emplace(key,
               DnnlProduct(pd, a, args.transpose_a, b, args.transpose_b, bias))
      .first->second;
}

}  // namespace carry
