// The carry: all that a layer needs to know of the past.
//
// A mixer states in its spec which fp32 arrays it carries, by name and shape
// per sequence. For a batch of B they lie one after another in one flat
// buffer, [B, shape...] each, so that a carry is one message and one checksum.
#pragma once

#include <string>
#include <vector>

#include "framework/tape.h"
#include "framework/tensor.h"

namespace carry {

struct CarryField {
  std::string name;
  Shape shape;  // per sequence
};
using CarrySpec = std::vector<CarryField>;

// A carry's values, or their gradient, for `batch` sequences.
class Carry {
 public:
  Carry() = default;  // undefined: zeros
  static Carry Empty(const CarrySpec& spec, int64_t batch);
  static Carry Zeros(const CarrySpec& spec, int64_t batch);

  bool defined() const { return flat_.defined(); }
  const Tensor& flat() const { return flat_; }
  const Tensor& field(size_t i) const { return fields_[i]; }
  size_t fields() const { return fields_.size(); }

 private:
  Tensor flat_;
  std::vector<Tensor> fields_;
};

// A carry on the tape: one Var a field. Empty: zeros.
using CarryVars = std::vector<Var>;

// Floats of one sequence's carry.
int64_t CarrySize(const CarrySpec& spec);

}  // namespace carry
