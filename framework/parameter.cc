#include "framework/parameter.h"

#include <utility>

#include "framework/random.h"
#include "kernels/matmul.h"
#include "kernels/parallel_for.h"
#include "kernels/span.h"

namespace carry {
namespace {

// Parameters start at multiples of 16 floats, a cache line.
constexpr int64_t kAlign = 16;
// Buckets have so many cache lines times a whole number: 2, 3, 4, 6, 8 ... 64
// ranks then have equal shares, which collectives like best.
constexpr int64_t kShares = 192;

}  // namespace

Initializer ConstantInit(float value) {
  return [value](uint64_t, uint64_t, float* x, int64_t n) {
    for (int64_t i = 0; i < n; ++i) x[i] = value;
  };
}

Initializer NormalInit(double stddev) {
  return [stddev](uint64_t seed, uint64_t stream, float* x, int64_t n) {
    ParallelRanges(n, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        x[i] = static_cast<float>(
            stddev * Normal(seed, stream, static_cast<uint64_t>(i)));
      }
    });
  };
}

Initializer UniformInit(double low, double high) {
  return [low, high](uint64_t seed, uint64_t stream, float* x, int64_t n) {
    ParallelRanges(n, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) {
        const double u = Uniform(seed, stream, static_cast<uint64_t>(i));
        x[i] = static_cast<float>(low + (high - low) * u);
      }
    });
  };
}

const WeightPack& Parameter::Packed(bool transpose, DType dtype, int64_t rows) {
  Backend& backend = value_.backend();
  const bool by_use = !backend.one_pack();
  PackKind kind = kPlain;
  if (transpose && by_use) kind = rows <= kFewRows ? kFewRowsOnly : kManyRows;
  Pack& pack = packs_[kind];
  const bool fits = pack.weight != nullptr && pack.dtype == dtype;
  if (fits && pack.version == *version_) return *pack.weight;
  if (kind != kPlain && !grad_.defined()) {
    packs_[kind == kManyRows ? kFewRowsOnly : kManyRows] = {};
  }
  // What training needs later is packed while the weight is in the cache.
  Pack& later = packs_[kPlain];
  const bool both = kind == kManyRows && fits && grad_.defined() &&
                    later.weight != nullptr && later.dtype == dtype &&
                    later.version != *version_;
  SpanInfo info{.category = "op", .name = "pack weights", .dtype = dtype};
  info.bytes = size() * (4 + (both ? 2 : 1) * SizeOf(dtype));
  const Span span(info);
  if (both) {
    pack.weight->UpdateBoth(value_.view(), *later.weight);
    later.version = *version_;
  } else if (fits) {
    pack.weight->Update(value_.view());
  } else {
    pack.weight = backend.Pack(value_.view(), transpose, dtype, rows);
    pack.claim = MemoryClaim(pack.weight->bytes(), MemoryPart::kParameters,
                             backend.device());
    pack.dtype = dtype;
  }
  pack.version = *version_;
  return *pack.weight;
}

const Tensor& Parameter::Derived(Tensor (*f)(const Tensor& value)) {
  if (!derived_.defined() || derived_version_ != *version_) {
    derived_ = f(value_);
    derived_version_ = *version_;
  }
  return derived_;
}

const Tensor& Parameter::GradToAdd() {
  if (!grad_written_) grad_.Zero();
  grad_written_ = true;
  return grad_;
}

const Tensor& Parameter::GradToWrite(Write* write) {
  *write = grad_written_ ? Write::kAccumulate : Write::kOverwrite;
  grad_written_ = true;
  return grad_;
}

void ParameterStore::ZeroGrads() {
  grads_.Zero();
  for (const auto& parameter : parameters_) parameter->grad_written_ = true;
}

void ParameterStore::BeginGrads() {
  for (const auto& parameter : parameters_) parameter->grad_written_ = false;
}

void ParameterStore::CompleteGrads(int64_t bucket) {
  const Range& range = buckets_[bucket];
  for (const auto& parameter : parameters_) {
    if (parameter->offset_ >= range.begin && parameter->offset_ < range.end) {
      parameter->GradToAdd();
    }
  }
}

void ParameterStore::CompleteGrads() {
  for (const auto& parameter : parameters_) parameter->GradToAdd();
}

Parameter* ParameterStore::Add(std::string name, Shape shape, bool decay,
                               Initializer init) {
  CARRY_CHECK(Find(name) == nullptr && !values_.defined());
  auto parameter = std::make_unique<Parameter>();
  parameter->name_ = std::move(name);
  parameter->decay_ = decay;
  parameter->offset_ = size_;
  parameter->version_ = &version_;
  parameter->shape_ = std::move(shape);
  size_ += (parameter->size() + kAlign - 1) / kAlign * kAlign;
  if (buckets_.empty()) buckets_.push_back({0, 0});
  buckets_.back().end = size_;
  parameters_.push_back(std::move(parameter));
  inits_.push_back(std::move(init));
  by_name_[parameters_.back()->name()] = parameters_.back().get();
  return parameters_.back().get();
}

void ParameterStore::EndBuckets() {
  if (buckets_.empty()) return;
  constexpr int64_t kMultiple = kAlign * kShares;
  Range& last = buckets_.back();
  last.end = last.begin + (last.size() + kMultiple - 1) / kMultiple * kMultiple;
  size_ = last.end;
}

void ParameterStore::BeginBucket() {
  EndBuckets();
  buckets_.push_back({size_, size_});
}

void ParameterStore::AllocateZeros() {
  EndBuckets();
  values_ = Tensor::Zeros({size_}, DType::kF32, MemoryPart::kParameters);
  for (const auto& p : parameters_) {
    p->value_ = values_.Slice(p->offset_, p->shape());
  }
}

void ParameterStore::Allocate(uint64_t seed, bool gradients) {
  AllocateZeros();
  if (gradients) {
    grads_ = Tensor::Zeros({size_}, DType::kF32, MemoryPart::kGradients);
  }
  for (size_t i = 0; i < parameters_.size(); ++i) {
    Parameter& p = *parameters_[i];
    if (gradients) p.grad_ = grads_.Slice(p.offset_, p.shape());
    const uint64_t stream = StreamOf(p.name_);
    if (p.value_.device() == Device::kCpu) {
      inits_[i](seed, stream, p.value_.f32(), p.size());
      continue;
    }
    std::vector<float> values(p.size());
    inits_[i](seed, stream, values.data(), p.size());
    p.value_.backend().FromHost(p.value_.data(), values.data(),
                                p.value_.bytes());
  }
  inits_.clear();
}

Parameter* ParameterStore::Find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : it->second;
}

}  // namespace carry
