#include "launch/limits.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "kernels/bench/yardsticks.h"
#include "launch/device_rates.h"

namespace carry {
namespace {

// Of the rate of exp alone.
double ScanShare(absl::string_view name) {
  return absl::StrContains(name, "backward") ? 0.24 : 0.50;
}

}  // namespace

Limits::Shape Limits::ShapeOf(const StepPart& part) {
  // Weight gradients are summed in fp32.
  const bool wide = std::strcmp(part.work.name, "matmul dw") == 0;
  return {part.work.m, part.work.n, part.work.k, wide};
}

Limits::Limits(const std::vector<StepPart>& parts) {
  for (const StepPart& part : parts) {
    if (!part.product()) continue;
    if (gpu_) {
      product_rates_[part.work.dtype] = 0;
      continue;
    }
    Product& product = products_[ShapeOf(part)];
    if (product.yardstick != nullptr) continue;
    const SpanInfo& work = part.work;
    const bool wide = std::get<3>(ShapeOf(part));
    product.yardstick = std::make_unique<ProductYardstick>(
        work.m, work.n, work.k, work.dtype, wide ? DType::kF32 : work.dtype);
  }
}

void Limits::Sample() {
  if (gpu_) {
    copy_rate_ = std::max(copy_rate_, MeasureDeviceCopy() * 1e-9);
    for (auto& [dtype, rate] : product_rates_) {
      rate = std::max(rate, MeasureProductPeak(dtype) * 1e-9);
    }
    return;
  }
  fma_rate_ = std::max(fma_rate_, FmaGflops());
  exp_rate_ = std::max(exp_rate_, ExpRate());
  read_rate_ = std::max(read_rate_, ReadBandwidth());
  for (bool stream : {false, true}) {
    copy_rate_ = std::max(copy_rate_, CopyBandwidth(stream));
  }
  for (auto& [shape, product] : products_) {
    product.gflops = std::max(product.gflops, product.yardstick->Gflops());
  }
}

Limit Limits::Of(const StepPart& part) const {
  if (part.product() && gpu_) {
    const double gflops = product_rates_.at(part.work.dtype);
    return {part.flops() * 1e-9 / gflops, "cuBLAS's best"};
  }
  if (part.product()) {
    const double gflops = products_.at(ShapeOf(part)).gflops;
    return {part.flops() * 1e-9 / gflops, "oneDNN's best"};
  }
  if (part.work.elements > 0 && !gpu_) {
    const double share = ScanShare(part.work.name);
    return {
        static_cast<double>(part.work.elements) * 1e-9 / (share * exp_rate_),
        absl::StrFormat("%.2f of exp alone", share)};
  }
  return {static_cast<double>(part.work.bytes) * 1e-9 / copy_rate_, "copy"};
}

std::string Limits::ToString() const {
  if (gpu_) {
    std::string text = absl::StrFormat("copy %.1f GB/s", copy_rate_);
    for (const auto& [dtype, rate] : product_rates_) {
      absl::StrAppendFormat(&text, ", products in %s %.0f GFLOP/s", Name(dtype),
                            rate);
    }
    return text;
  }
  return absl::StrFormat(
      "fused multiply-add %.0f GFLOP/s, exp(dt A) alone %.1f G/s, memory read "
      "%.1f GB/s, copy %.1f GB/s",
      fma_rate_, exp_rate_, read_rate_, copy_rate_);
}

}  // namespace carry
