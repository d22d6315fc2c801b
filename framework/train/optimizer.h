// AdamW over a parameter arena, with global-norm clipping and a learning-rate
// schedule.
#pragma once

#include <cstdint>

#include "framework/parameter.h"
#include "recipes/schema/recipe.pb.h"

namespace carry {

// The learning rate of update `step`, counted from 0, of `steps`.
//   warm-up               peak (step + 1) / warmup_steps
//   COSINE                min + (peak - min) (1 + cos(pi x)) / 2, x from 0 to 1
//                         over the steps after the warm-up
//   WARMUP_STABLE_DECAY   peak, then linear to min over the last decay_steps
//   CONSTANT              peak
double LearningRate(const config::Optimizer& config, int64_t step,
                    int64_t steps);

class AdamWOptimizer {
 public:
  // `config` must be resolved; `store` must have gradients.
  AdamWOptimizer(const config::Optimizer& config, ParameterStore& store);

  // The gradients' global norm. Not finite if any gradient is not.
  double GradientNorm() const;
  // One update; `update` counts applied updates from 1 (bias correction).
  // Gradients are scaled down to config.max_grad_norm. Zeroes no gradient.
  void Step(double learning_rate, double gradient_norm, int64_t update);

  const Tensor& m() const { return m_; }
  const Tensor& v() const { return v_; }

 private:
  config::Optimizer config_;
  ParameterStore& store_;
  Tensor m_, v_;  // laid out as the arena
};

}  // namespace carry
