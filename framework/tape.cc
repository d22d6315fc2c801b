#include "framework/tape.h"

#include <utility>

namespace carry {
Var::Var(Tensor value, bool needs_grad) : state_(std::make_shared<State>()) {
  state_->value = std::move(value);
  state_->needs_grad = needs_grad;
}

Tensor Var::grad() const {
  if (state_ == nullptr || !state_->written) return Tensor();
  return state_->grad;
}

void Var::SetGrad(Tensor grad) const {
  state_->grad = std::move(grad);
  state_->written = true;
}

Tensor Var::GradMemory(State& state) {
  if (!state.grad.defined()) {
    if (state.parent != nullptr) {
      state.parent->written = true;
      state.grad =
          GradMemory(*state.parent).Columns(state.column, state.value.cols());
    } else {
      state.grad = Tensor::Empty(state.value.shape(), state.value.dtype());
    }
  }
  return state.grad;
}

Var Var::Columns(int64_t begin, int64_t count) const {
  Var part(state_->value.Columns(begin, count), state_->needs_grad);
  if (state_->needs_grad) {
    part.state_->parent = state_;
    part.state_->column = begin;
  }
  return part;
}

GradTarget GradTarget::Accumulate(const Var& var) {
  GradTarget target;
  if (!var.needs_grad()) return target;
  target.var_ = var;
  target.tensor_ = Var::GradMemory(*var.state_);
  target.write_ = var.state_->written ? Write::kAccumulate : Write::kOverwrite;
  return target;
}

GradTarget GradTarget::Overwrite(const Var& var) {
  GradTarget target;
  if (!var.needs_grad()) return target;
  target.var_ = var;
  target.add_ = var.state_->written;
  target.tensor_ = target.add_
                       ? Tensor::Empty(var.value().shape(), var.value().dtype())
                       : Var::GradMemory(*var.state_);
  return target;
}

MatView GradTarget::view() const {
  return tensor_.defined() ? tensor_.view() : MatView{};
}

void GradTarget::Finish() {
  if (!tensor_.defined()) return;
  if (add_) {
    const Tensor& grad = var_.state_->grad;
    grad.backend().AddMatrix(grad.view(), tensor_.view());
  }
  var_.state_->written = true;
  tensor_ = Tensor();
}

absl::Status Tape::RunBackward() {
  while (!nodes_.empty()) {
    const Backward node = std::move(nodes_.back());
    nodes_.pop_back();
    absl::Status status = node();
    if (!status.ok()) {
      nodes_.clear();
      return status;
    }
  }
  return absl::OkStatus();
}

void Tape::Observe(const char* name, const Var& var) {
  if (!observer_) return;
  const std::string full = scope_ + name;
  observer_(full, var.value());
  Record([this, full, var]() {
    if (const Tensor grad = var.grad(); grad.defined()) {
      observer_("gradient of " + full, grad);
    }
    return absl::OkStatus();
  });
}

}  // namespace carry
