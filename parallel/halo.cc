#include "parallel/halo.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace carry {
namespace {

float Get(const Tensor& t, int64_t row, int64_t col) {
  const int64_t at = row * t.stride() + col;
  return t.dtype() == DType::kF32 ? t.f32()[at] : ToFloat(t.as<BFloat16>()[at]);
}

void AddAt(const Tensor& t, int64_t row, int64_t col, float x) {
  const int64_t at = row * t.stride() + col;
  if (t.dtype() == DType::kF32) {
    t.f32()[at] += x;
  } else {
    BFloat16& y = t.as<BFloat16>()[at];
    y = ToBFloat16(ToFloat(y) + x);
  }
}

}  // namespace

struct HaloExchange::Messages {
  struct Message {
    int peer;
    Part inputs;  // by position in the sequence
    std::vector<float> floats;
    std::unique_ptr<Transfer> transfer;
  };
  Message& Add(int peer, Part inputs, int64_t floats_each) {
    list.push_back({peer, inputs, {}, nullptr});
    list.back().floats.resize(inputs.size() * floats_each);
    return list.back();
  }
  absl::Status Wait() {
    for (Message& message : list) {
      absl::Status status = message.transfer->Wait();
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  std::vector<Message> list;
};

Part HaloExchange::Inputs(int from, int to, bool tokens_only) const {
  const int64_t edge = spans_[to].begin;
  if (from >= to || spans_[to].end == edge) return {};
  const int64_t first =
      from == 0 && !tokens_only ? -width_ : spans_[from].begin;
  const int64_t begin = std::max(first, edge - width_);
  return {begin, std::max(begin, std::min(spans_[from].end, edge))};
}

bool HaloExchange::SameDocument(int64_t row, int64_t position,
                                int64_t shard_begin) const {
  if (batch_.document_start == nullptr) return true;
  const uint8_t* starts = batch_.document_start + row * batch_.stride;
  for (int64_t t = std::max<int64_t>(position + 1, 0); t < shard_begin; ++t) {
    if (starts[t] != 0) return false;
  }
  return true;
}

absl::Status HaloExchange::Forward(const Tensor& source,
                                   const Tensor& halo) const {
  const CommLabel label = {"halo", layer_, -1, "forward"};
  const int me = comm_.rank(), tag = static_cast<int>(layer_);
  const ChunkSpan& span = spans_[me];
  const int64_t time = span.end - span.begin;
  const int64_t each = batch_.batch * channels_;
  Messages receives, sends;
  for (int from = 0; from < me; ++from) {
    const Part inputs = Inputs(from, me, false);
    if (inputs.size() > 0) receives.Add(from, inputs, each);
  }
  for (auto& m : receives.list) {
    m.transfer = comm_.Receive(m.floats.data(), m.floats.size() * sizeof(float),
                               m.peer, tag, label);
  }
  for (int to = me + 1; to < comm_.size(); ++to) {
    const Part inputs = Inputs(me, to, false);
    if (inputs.size() > 0) sends.Add(to, inputs, each);
  }
  for (auto& m : sends.list) {
    float* x = m.floats.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        for (int64_t e = 0; e < channels_; ++e) {
          if (p >= 0) {
            *x++ = Get(source, b * time + p - span.begin, e);
          } else {
            const int64_t at = (b * channels_ + e) * width_ + width_ + p;
            *x++ = halo.defined() ? halo.f32()[at] : 0;
          }
        }
      }
    }
    m.transfer = comm_.Send(m.floats.data(), m.floats.size() * sizeof(float),
                            m.peer, tag, label);
  }
  absl::Status status = receives.Wait();
  if (!status.ok()) return status;
  for (const auto& m : receives.list) {
    const float* x = m.floats.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const bool keep = SameDocument(b, p, span.begin);
        const int64_t k = p - (span.begin - width_);
        for (int64_t e = 0; e < channels_; ++e, ++x) {
          halo.f32()[(b * channels_ + e) * width_ + k] = keep ? *x : 0;
        }
      }
    }
  }
  return sends.Wait();
}

absl::Status HaloExchange::Backward(const Var& source, const Var& halo) const {
  const CommLabel label = {"halo gradient", layer_, -1, "backward"};
  const int me = comm_.rank(), tag = static_cast<int>(layer_);
  const ChunkSpan& span = spans_[me];
  const int64_t time = span.end - span.begin;
  const int64_t each = batch_.batch * channels_;
  Messages receives, sends;
  for (int from = me + 1; from < comm_.size(); ++from) {
    const Part inputs = Inputs(me, from, true);
    if (inputs.size() > 0) receives.Add(from, inputs, each);
  }
  for (auto& m : receives.list) {
    m.transfer = comm_.Receive(m.floats.data(), m.floats.size() * sizeof(float),
                               m.peer, tag, label);
  }
  for (int to = 0; to < me; ++to) {
    const Part inputs = Inputs(to, me, true);
    if (inputs.size() > 0) sends.Add(to, inputs, each);
  }
  for (auto& m : sends.list) {
    const float* grad = halo.grad().f32();
    float* x = m.floats.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const bool keep = SameDocument(b, p, span.begin);
        const int64_t k = p - (span.begin - width_);
        for (int64_t e = 0; e < channels_; ++e) {
          *x++ = keep ? grad[(b * channels_ + e) * width_ + k] : 0;
        }
      }
    }
    m.transfer = comm_.Send(m.floats.data(), m.floats.size() * sizeof(float),
                            m.peer, tag, label);
  }
  absl::Status status = receives.Wait();
  if (!status.ok()) return status;
  const Tensor grad = source.grad();
  for (const auto& m : receives.list) {
    const float* x = m.floats.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const int64_t row = b * time + p - span.begin;
        for (int64_t e = 0; e < channels_; ++e) AddAt(grad, row, e, *x++);
      }
    }
  }
  return sends.Wait();
}

}  // namespace carry
