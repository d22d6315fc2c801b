#include "framework/train/carry_exchange.h"

#include <utility>

namespace carry {

LocalCarryExchange::LocalCarryExchange(int64_t layers, int64_t chunks,
                                       std::vector<Carry> initial,
                                       bool initial_grad,
                                       std::vector<Carry> final_grad)
    : chunks_(chunks),
      initial_grad_wanted_(initial_grad),
      carries_(std::move(initial)),
      grads_(std::move(final_grad)) {
  if (carries_.empty()) carries_.resize(layers);
  if (grads_.empty()) grads_.resize(layers);
  CARRY_CHECK(static_cast<int64_t>(carries_.size()) == layers &&
              static_cast<int64_t>(grads_.size()) == layers);
}

absl::StatusOr<Carry> LocalCarryExchange::Incoming(int64_t layer, int64_t) {
  return carries_[layer];
}

absl::Status LocalCarryExchange::Outgoing(int64_t layer, int64_t, Carry carry) {
  carries_[layer] = std::move(carry);
  return absl::OkStatus();
}

bool LocalCarryExchange::NeedsGrad(int64_t chunk) const {
  return chunk > 0 || initial_grad_wanted_;
}

absl::StatusOr<Carry> LocalCarryExchange::IncomingGrad(int64_t layer,
                                                       int64_t chunk) {
  CARRY_CHECK(chunk < chunks_);
  return std::exchange(grads_[layer], Carry());
}

absl::Status LocalCarryExchange::OutgoingGrad(int64_t layer, int64_t,
                                              Carry grad) {
  grads_[layer] = std::move(grad);
  return absl::OkStatus();
}

}  // namespace carry
