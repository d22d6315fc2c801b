#include "framework/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/adamw.h"
#include "kernels/span.h"

namespace carry {

double LearningRate(const config::Optimizer& config, int64_t step,
                    int64_t steps) {
  const double peak = config.learning_rate();
  const double low = config.min_learning_rate();
  const int64_t warmup = config.warmup_steps();
  if (step < warmup) {
    return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
  }
  switch (config.schedule()) {
    case config::Optimizer::WARMUP_STABLE_DECAY: {
      const int64_t decay = config.decay_steps();
      const int64_t left = steps - step;  // updates still to do, this one too
      if (left > decay) return peak;
      return low + (peak - low) *
                       static_cast<double>(std::max<int64_t>(left, 0)) /
                       static_cast<double>(decay + 1);
    }
    case config::Optimizer::CONSTANT:
      return peak;
    default: {
      const double span =
          static_cast<double>(std::max<int64_t>(1, steps - 1 - warmup));
      const double x = std::min(1.0, static_cast<double>(step - warmup) / span);
      return low + (peak - low) * 0.5 * (1 + std::cos(M_PI * x));
    }
  }
}

AdamWOptimizer::AdamWOptimizer(const config::Optimizer& config,
                               ParameterStore& store, std::vector<Range> shards)
    : config_(config), store_(store), shards_(std::move(shards)) {
  int64_t size = 0;
  for (const Range& shard : shards_) size += shard.size();
  m_ = Tensor::Zeros({size}, DType::kF32, MemoryPart::kOptimizer);
  v_ = Tensor::Zeros({size}, DType::kF32, MemoryPart::kOptimizer);
}

absl::StatusOr<std::vector<double>> AdamWOptimizer::SumsOfSquares() const {
  SpanInfo info{.category = "op", .name = "gradient norm"};
  info.bytes = m_.bytes();
  const Span span(info);
  std::vector<std::pair<const float*, int64_t>> ranges;
  for (const Range& shard : shards_) {
    ranges.emplace_back(store_.grads().f32() + shard.begin, shard.size());
  }
  std::vector<double> sums(ranges.size());
  absl::Status status = m_.backend().SumsOfSquares(ranges, sums.data());
  if (!status.ok()) return status;
  return sums;
}

std::vector<AdamWOptimizer::Slice> AdamWOptimizer::Slices() const {
  std::vector<Slice> slices;
  int64_t held = 0;  // elements of earlier shards
  for (const Range& shard : shards_) {
    for (const auto& p : store_.parameters()) {
      const int64_t begin = std::max(shard.begin, p->offset());
      const int64_t end = std::min(shard.end, p->offset() + p->size());
      if (begin >= end) continue;
      const int64_t at = held + begin - shard.begin;
      slices.push_back({p.get(), begin - p->offset(), end - p->offset(),
                        m_.Slice(at, {end - begin}),
                        v_.Slice(at, {end - begin})});
    }
    held += shard.size();
  }
  return slices;
}

void AdamWOptimizer::Step(double learning_rate, double gradient_norm,
                          int64_t update) {
  // Weights and both moments are read and written, gradients read.
  SpanInfo info{.category = "op", .name = "AdamW"};
  info.bytes = 7 * m_.bytes();
  const Span span(info);
  AdamWArgs args{};
  args.lr = static_cast<float>(learning_rate);
  args.beta1 = static_cast<float>(config_.beta1());
  args.beta2 = static_cast<float>(config_.beta2());
  args.eps = static_cast<float>(config_.epsilon());
  const double n = static_cast<double>(update);
  args.correction1 = static_cast<float>(1 - std::pow(config_.beta1(), n));
  args.correction2 = static_cast<float>(1 - std::pow(config_.beta2(), n));
  args.grad_scale = 1;
  if (config_.max_grad_norm() > 0 && gradient_norm > config_.max_grad_norm()) {
    args.grad_scale =
        static_cast<float>(config_.max_grad_norm() / gradient_norm);
  }
  // Neighbours with the same decay make one pass. The padding between
  // parameters is left out: it never changes.
  const std::vector<Slice> slices = Slices();
  for (size_t i = 0; i < slices.size();) {
    const Slice& first = slices[i];
    const int64_t begin = first.parameter->offset() + first.begin;
    int64_t end = 0;
    size_t j = i;
    for (; j < slices.size(); ++j) {
      const Slice& s = slices[j];
      // Contiguous in the arena and in the moments alike.
      const int64_t offset = s.parameter->offset() + s.begin - begin;
      if (s.parameter->decay() != first.parameter->decay() ||
          s.m.f32() - first.m.f32() != offset) {
        break;
      }
      end = s.parameter->offset() + s.end;
    }
    args.n = end - begin;
    args.weight = store_.values().f32() + begin;
    args.grad = store_.grads().f32() + begin;
    args.m = first.m.f32();
    args.v = first.v.f32();
    args.weight_decay = first.parameter->decay()
                            ? static_cast<float>(config_.weight_decay())
                            : 0.0f;
    m_.backend().AdamW(args);
    i = j;
  }
  store_.Changed();
}

}  // namespace carry
