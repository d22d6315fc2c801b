#include "launch/cost.h"

#include <algorithm>

namespace carry {
namespace {

struct BlockCost {
  int64_t parameters;
  int64_t matrix_entries;  // That every token is multiplied with.
  double other_flops;
  int64_t carry_floats;
};

BlockCost CostOfBlock(const config::Mamba& m, int64_t d) {
  const int64_t e = m.expand() * d, n = m.state_size(), k = m.conv_kernel();
  const int64_t r = m.time_step_rank();
  BlockCost cost;
  cost.matrix_entries = 2 * e * d + (r + 2 * n) * e + e * r + d * e;
  cost.parameters = cost.matrix_entries + d + e * k + e + e * n + e;
  if (m.use_conv_bias()) cost.parameters += e;
  if (m.use_bias()) cost.parameters += 2 * e + d;
  cost.other_flops = 7.0 * e * n + 2.0 * e * k;
  cost.carry_floats = e * (n + k - 1);
  return cost;
}

}  // namespace

ModelCost CostOf(const config::Model& model) {
  const int64_t d = model.hidden_size(), v = model.vocab_size();
  const BlockCost block = CostOfBlock(model.mamba(), d);
  ModelCost cost;
  cost.parameters = model.num_layers() * block.parameters + d +
                    v * d * (model.tie_embeddings() ? 1 : 2);
  cost.matmul_forward_flops =
      2.0 * (model.num_layers() * block.matrix_entries + v * d);
  cost.other_forward_flops = model.num_layers() * block.other_flops;
  cost.carry_bytes = 4 * model.num_layers() * block.carry_floats;
  return cost;
}

StepCost CostOfStep(const config::Recipe& recipe) {
  const config::Training& t = recipe.training();
  const ModelCost model = CostOf(recipe.model());
  const int64_t chunks =
      (t.sequence_length() + t.chunk_length() - 1) / t.chunk_length();
  StepCost cost;
  cost.tokens = t.batch_size() * t.sequence_length();
  cost.matmul_flops = 3 * model.matmul_forward_flops * cost.tokens;
  if (chunks > 1) {
    const double head =
        2.0 * recipe.model().vocab_size() * recipe.model().hidden_size();
    const int64_t again = t.batch_size() * (chunks - 1) * t.chunk_length();
    cost.matmul_flops += (model.matmul_forward_flops - head) * again;
  }
  cost.edge_carry_bytes = model.carry_bytes * t.micro_batch_size() * chunks;
  cost.optimizer_bytes = 16 * model.parameters;
  return cost;
}

}  // namespace carry
