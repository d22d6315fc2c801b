// Trainable tensors, laid out in one arena.
//
// All weights lie one after another in one fp32 array, all gradients in
// another with the same offsets: a norm, a clip, an optimizer step and a
// gradient reduction are each one pass over flat memory, whatever the model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "framework/memory.h"
#include "framework/tensor.h"
#include "kernels/backend.h"

namespace carry {

class Parameter {
 public:
  const std::string& name() const { return name_; }
  const Shape& shape() const { return shape_; }
  const Tensor& value() const { return value_; }
  // The sum over the chunks and micro-batches of a step so far. Undefined
  // between BeginGrads and the first op's contribution.
  const Tensor& grad() const { return grad_; }
  // The gradient for an op that adds to it; zeroed if it is the step's first.
  const Tensor& GradToAdd();
  // The gradient for an op that can do either: *write is kOverwrite for the
  // step's first, kAccumulate later.
  const Tensor& GradToWrite(Write* write);
  int64_t offset() const { return offset_; }  // elements, in the arena
  int64_t size() const { return Product(shape_); }
  // Whether weight decay applies.
  bool decay() const { return decay_; }

  // The weight [N, K] packed for y = x W^T (transpose) or dx = dy W, in
  // `dtype`; made at first use and again after the values have changed. There
  // are two for y = x W^T, for kFewRows and for more; a model without
  // gradients keeps the one used last.
  // A GPU has one for all.
  const WeightPack& Packed(bool transpose, DType dtype, int64_t rows);

  // f(value()), kept until the values change. One `f` a parameter.
  const Tensor& Derived(Tensor (*f)(const Tensor& value));

 private:
  friend class ParameterStore;
  std::string name_;
  Shape shape_;
  Tensor value_;
  Tensor grad_;
  int64_t offset_ = 0;
  bool decay_ = true;
  bool grad_written_ = true;     // zeros count
  uint64_t* version_ = nullptr;  // the store's
  struct Pack {
    std::unique_ptr<WeightPack> weight;
    MemoryClaim claim;
    DType dtype = DType::kF32;
    uint64_t version = 0;
  };
  enum PackKind { kPlain, kManyRows, kFewRowsOnly, kPackKinds };
  Pack packs_[kPackKinds];
  Tensor derived_;
  uint64_t derived_version_ = 0;
};

// Fills a parameter with its initial values. `stream` differs for every
// parameter and depends on its name alone.
using Initializer =
    std::function<void(uint64_t seed, uint64_t stream, float* x, int64_t n)>;
Initializer ConstantInit(float value);
Initializer NormalInit(double stddev);
Initializer UniformInit(double low, double high);

// Elements [begin, end) of the arena.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

class ParameterStore {
 public:
  // Parameters added from now on belong to a new bucket: those whose gradients
  // are complete at the same moment of backward, such as a layer's. Every
  // parameter belongs to one.
  void BeginBucket();
  // Call after the last Add: sizes are final.
  void EndBuckets();
  // Owned by the store; valid for its life. Names must differ.
  Parameter* Add(std::string name, Shape shape, bool decay, Initializer init);

  // Allocates the arenas (gradients only if `gradients`) and initialises.
  // Call once, after every Add.
  void Allocate(uint64_t seed, bool gradients);
  // The same with zeros, for values that are about to be read, and without
  // gradients.
  void AllocateZeros();

  const std::vector<std::unique_ptr<Parameter>>& parameters() const {
    return parameters_;
  }
  Parameter* Find(const std::string& name) const;  // or nullptr
  int64_t size() const { return size_; }           // elements
  // In the order of the arena, which they cover.
  const std::vector<Range>& buckets() const { return buckets_; }
  const Tensor& values() const { return values_; }
  const Tensor& grads() const { return grads_; }
  void ZeroGrads();
  // The same for ops to come, without a pass over memory: the first that
  // contributes to a gradient overwrites it. CompleteGrads zeroes, in one
  // bucket or in all, what no op has written.
  void BeginGrads();
  void CompleteGrads(int64_t bucket);
  void CompleteGrads();
  // Call after changing values: packed copies are made again.
  void Changed() { ++version_; }

 private:
  std::vector<std::unique_ptr<Parameter>> parameters_;
  std::unordered_map<std::string, Parameter*> by_name_;
  std::vector<Initializer> inits_;
  std::vector<Range> buckets_;
  Tensor values_;
  Tensor grads_;
  int64_t size_ = 0;
  uint64_t version_ = 1;
};

}  // namespace carry
