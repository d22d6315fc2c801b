#include "framework/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "kernels/adamw.h"

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
                               ParameterStore& store)
    : config_(config), store_(store) {
  m_ = Tensor::Zeros({store.size()}, DType::kF32, MemoryPart::kOptimizer);
  v_ = Tensor::Zeros({store.size()}, DType::kF32, MemoryPart::kOptimizer);
}

double AdamWOptimizer::GradientNorm() const {
  return std::sqrt(SumOfSquares(store_.grads().f32(), store_.size()));
}

void AdamWOptimizer::Step(double learning_rate, double gradient_norm,
                          int64_t update) {
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
  // Neighbours with the same decay make one pass; padding is zero and stays.
  const auto& parameters = store_.parameters();
  for (size_t i = 0; i < parameters.size();) {
    size_t j = i + 1;
    while (j < parameters.size() &&
           parameters[j]->decay() == parameters[i]->decay()) {
      ++j;
    }
    const int64_t begin = parameters[i]->offset();
    const int64_t end =
        j < parameters.size() ? parameters[j]->offset() : store_.size();
    args.n = end - begin;
    args.weight = store_.values().f32() + begin;
    args.grad = store_.grads().f32() + begin;
    args.m = m_.f32() + begin;
    args.v = v_.f32() + begin;
    args.weight_decay = parameters[i]->decay()
                            ? static_cast<float>(config_.weight_decay())
                            : 0.0f;
    AdamW(args);
    i = j;
  }
  store_.Changed();
}

}  // namespace carry
