#include "kernels/bench/product_yardstick.h"

#include <algorithm>
#include <unordered_map>

#include "dnnl.hpp"
#include "kernels/bench/clock.h"
#include "kernels/cpu/dnnl_product.h"

namespace carry {

using dnnl::memory;

struct ProductYardstick::Impl {
  // With numbers near 0.01 in either type: a product of zeros takes less power
  // and runs faster.
  memory Filled(const memory::desc& desc) {
    memory m(desc, engine);
    auto* half = static_cast<uint16_t*>(m.get_data_handle());
    const size_t n = desc.get_size() / 2;
    for (size_t i = 0; i < n; ++i) half[i] = 0x3c00 + i * 611 % 256;
    return m;
  }

  double Seconds(int calls) {
    const double start = BenchSeconds();
    for (int i = 0; i < calls; ++i) primitive.execute(stream, args);
    stream.wait();
    return (BenchSeconds() - start) / calls;
  }

  double flops = 0;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul primitive;
  std::unordered_map<int, memory> args;
};

ProductYardstick::ProductYardstick(int64_t m, int64_t n, int64_t k, DType in,
                                   DType out, ProductLayout layout)
    : impl_(std::make_unique<Impl>()) {
  using Tag = memory::format_tag;
  const bool gradient = layout == ProductLayout::kGradient;
  impl_->flops = 2.0 * static_cast<double>(m * n * k);
  if (DnnlDies(in, k)) ++k;  // A term that does not count.
  const auto desc = [&](int64_t rows, int64_t cols, DType dtype, Tag tag) {
    return memory::desc(
        {rows, cols},
        dtype == DType::kF32 ? memory::data_type::f32 : memory::data_type::bf16,
        gradient ? tag : Tag::any);
  };
  const memory::desc a = desc(m, k, in, Tag::ba), b = desc(k, n, in, Tag::ab),
                     c = desc(m, n, out, Tag::ab);
  dnnl::primitive_attr attributes;
  if (gradient) {
    dnnl::post_ops add;
    add.append_sum(1.0f);
    attributes.set_post_ops(add);
  }
#if DNNL_VERSION_MAJOR >= 3
  const dnnl::matmul::primitive_desc pd(impl_->engine, a, b, c, attributes);
#else
  const dnnl::matmul::primitive_desc pd(dnnl::matmul::desc(a, b, c), attributes,
                                        impl_->engine);
#endif
  impl_->primitive = dnnl::matmul(pd);
  impl_->args = {{DNNL_ARG_SRC, impl_->Filled(pd.src_desc())},
                 {DNNL_ARG_WEIGHTS, impl_->Filled(pd.weights_desc())},
                 {DNNL_ARG_DST, impl_->Filled(pd.dst_desc())}};
}

ProductYardstick::~ProductYardstick() = default;

double ProductYardstick::Gflops() {
  // The best of slices of at least 1 ms, 30 ms in all.
  double best = impl_->Seconds(1);
  const int calls = std::max(1, static_cast<int>(0.001 / best));
  const int slices = std::max(1, static_cast<int>(0.03 / (best * calls)));
  for (int i = 0; i < slices; ++i) {
    best = std::min(best, impl_->Seconds(calls));
  }
  return impl_->flops * 1e-9 / best;
}

}  // namespace carry
