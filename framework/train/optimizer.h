// AdamW over a parameter arena, with global-norm clipping and a learning-rate
// schedule.
#pragma once

#include <cstdint>
#include <vector>

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
  // Keeps state for `shards` of the arena alone (ascending, disjoint; ends at
  // multiples of 16 keep vector loads aligned). `config` must be resolved;
  // `store` must have gradients.
  AdamWOptimizer(const config::Optimizer& config, ParameterStore& store,
                 std::vector<Range> shards);

  // The sum of squares of the shards' gradients, a value a shard. Not finite
  // if any gradient is not.
  absl::StatusOr<std::vector<double>> SumsOfSquares() const;
  // One update of the shards; `update` counts applied updates from 1 (bias
  // correction). Gradients are scaled down to config.max_grad_norm, given
  // their global norm.
  void Step(double learning_rate, double gradient_norm, int64_t update);

  // A stretch of one parameter inside a shard, with its moments.
  struct Slice {
    const Parameter* parameter;
    int64_t begin, end;  // elements of the parameter
    Tensor m, v;         // flat
  };
  std::vector<Slice> Slices() const;

 private:
  config::Optimizer config_;
  ParameterStore& store_;
  std::vector<Range> shards_;
  Tensor m_, v_;  // the shards, one after another
};

}  // namespace carry
