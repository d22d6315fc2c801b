// Reverse-mode differentiation: an explicit tape of closures.
//
// An op computes its value at once and, if the tape records, pushes a closure
// that turns the gradient of its outputs into gradients of its inputs.
// Backward runs the closures from the last to the first and frees each with
// all that it saved, so memory falls as backward proceeds.
//
// A tape and the Vars made on it belong to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "framework/tensor.h"

namespace carry {

// A handle to a value of the tape and its gradient; copies refer to the same.
class Var {
 public:
  Var() = default;
  // A leaf or an op's output. Gradients are kept for it if `needs_grad`.
  Var(Tensor value, bool needs_grad);

  bool defined() const { return state_ != nullptr; }
  const Tensor& value() const { return state_->value; }
  bool needs_grad() const { return state_ != nullptr && state_->needs_grad; }
  // The gradient that has been written so far; undefined if none.
  Tensor grad() const;

  // Gradients go into `buffer` instead of fresh memory (not yet written).
  void SetGradBuffer(Tensor buffer) const { state_->grad = std::move(buffer); }
  // `grad` is the gradient, or a part that later ones are added to.
  void SetGrad(Tensor grad) const;

  // Columns [begin, begin + count) as a Var of their own. Its gradient is the
  // same columns of this Var's gradient: no copy in either direction. Every
  // column must belong to exactly one such Var, or have no gradient.
  Var Columns(int64_t begin, int64_t count) const;

 private:
  friend class GradTarget;
  struct State {
    Tensor value;
    Tensor grad;  // allocated; holds a gradient only if `written`
    bool needs_grad = false;
    bool written = false;
    std::shared_ptr<State> parent;  // of a column range
    int64_t column = 0;
  };
  // The gradient's memory, allocated if there is none.
  static Tensor GradMemory(State& state);
  std::shared_ptr<State> state_;
};

// Where an op's backward writes a gradient. The first contribution overwrites;
// for later ones the kernel either accumulates (Accumulate) or writes to
// scratch that Finish adds (Overwrite).
class GradTarget {
 public:
  // For kernels that can do both: writes with write().
  static GradTarget Accumulate(const Var& var);
  // For kernels that only overwrite.
  static GradTarget Overwrite(const Var& var);

  // data == nullptr if the Var needs no gradient.
  MatView view() const;
  float* f32() const { return tensor_.defined() ? tensor_.f32() : nullptr; }
  Write write() const { return write_; }
  // Call once after the kernel.
  void Finish();

 private:
  Var var_;
  Tensor tensor_;
  Write write_ = Write::kOverwrite;
  bool add_ = false;
};

class Tape {
 public:
  using Backward = std::function<absl::Status()>;
  // Called with the name and value of every observed tensor.
  using Observer = std::function<void(const std::string& name, const Tensor&)>;

  explicit Tape(bool recording) : recording_(recording) {}
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  bool recording() const { return recording_; }
  void Record(Backward backward) {
    if (recording_) nodes_.push_back(std::move(backward));
  }

  // Runs and frees every node, last first; stops at the first error.
  absl::Status RunBackward();

  // Shows `var` to the observer now, and its gradient in backward.
  void Observe(const char* name, const Var& var);
  void SetObserver(Observer observer) { observer_ = std::move(observer); }
  // Put before the names of observed tensors: "layers.3.".
  void SetScope(std::string scope) { scope_ = std::move(scope); }

 private:
  bool recording_;
  std::vector<Backward> nodes_;
  Observer observer_;
  std::string scope_;
};

}  // namespace carry
