#include "framework/nn/carry.h"

namespace carry {

int64_t CarrySize(const CarrySpec& spec) {
  int64_t size = 0;
  for (const CarryField& field : spec) size += Product(field.shape);
  return size;
}

Carry Carry::Empty(const CarrySpec& spec, int64_t batch) {
  Carry carry;
  carry.flat_ = Tensor::Empty({batch * CarrySize(spec)}, DType::kF32,
                              MemoryPart::kCarries);
  int64_t offset = 0;
  for (const CarryField& field : spec) {
    Shape shape = {batch};
    shape.insert(shape.end(), field.shape.begin(), field.shape.end());
    carry.fields_.push_back(carry.flat_.Slice(offset, shape));
    offset += Product(shape);
  }
  return carry;
}

Carry Carry::Zeros(const CarrySpec& spec, int64_t batch) {
  Carry carry = Empty(spec, batch);
  carry.flat_.Zero();
  return carry;
}

}  // namespace carry
