#include "parallel/halo.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/span.h"

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

// Messages of one kind and layer: those that this rank gets, those it sends.
struct HaloExchange::Messages {
  struct Message {
    int peer;
    Part inputs;                // by position in the sequence
    std::vector<float> floats;  // and the seal
    std::unique_ptr<Transfer> transfer;
    float* data() { return floats.data(); }
    int64_t size() const {
      return static_cast<int64_t>(floats.size()) - kSealFloats;
    }
    int64_t bytes() const {
      return static_cast<int64_t>(floats.size() * sizeof(float));
    }
  };

  Messages(const HaloExchange& halo, SealKind kind)
      : halo(halo), kind(kind), tag(static_cast<int>(halo.layer_)) {}

  void Receive(int from, Part inputs) {
    Message& m = Add(receives, from, inputs);
    m.transfer = halo.comm_.Receive(m.data(), m.bytes(), from, tag,
                                    halo.StampOf(kind, from).Label());
  }
  // To be filled, then sent.
  Message& ToSend(int to, Part inputs) { return Add(sends, to, inputs); }
  void Send(Message& m) {
    const Stamp stamp = halo.StampOf(kind, halo.comm_.rank());
    WriteSeal(stamp, m.data(), m.size(), m.data() + m.size());
    m.transfer =
        halo.comm_.Send(m.data(), m.bytes(), m.peer, tag, stamp.Label());
  }
  // Afterwards what came may be used.
  absl::Status WaitForReceives() {
    for (Message& m : receives) {
      const Stamp stamp = halo.StampOf(kind, m.peer);
      SpanInfo info{.category = "wait", .name = "wait for halo"};
      info.direction = stamp.Label().direction;
      info.layer = stamp.layer;
      info.chunk = stamp.chunk;
      info.peer = m.peer;
      const Span span(info);
      absl::Status status = m.transfer->Wait();
      if (status.ok()) {
        status = CheckSeal(stamp, halo.comm_.rank(), m.data(), m.size(),
                           m.data() + m.size());
      }
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status WaitForSends() {
    for (Message& m : sends) {
      absl::Status status = m.transfer->Wait();
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  Message& Add(std::vector<Message>& list, int peer, Part inputs) {
    list.push_back({peer, inputs, {}, nullptr});
    const int64_t each = halo.batch_.batch * halo.channels_;
    list.back().floats.resize(inputs.size() * each + kSealFloats);
    return list.back();
  }

  const HaloExchange& halo;
  const SealKind kind;
  const int tag;
  std::vector<Message> receives, sends;
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
  const int me = comm_.rank();
  const ChunkSpan& span = spans_[me];
  const int64_t time = span.end - span.begin;
  Messages messages(*this, SealKind::kHalo);
  int64_t filled = 0;
  for (int from = 0; from < me; ++from) {
    const Part inputs = Inputs(from, me, false);
    if (inputs.size() > 0) messages.Receive(from, inputs);
    filled += inputs.size();
  }
  if (me > 0 && filled != width_) {
    return absl::InternalError(
        absl::StrCat("rank ", me, ": the halo of layer ", layer_,
                     " would start from zeros: ", filled, " of ", width_,
                     " inputs come from other ranks"));
  }
  for (int to = me + 1; to < comm_.size(); ++to) {
    const Part inputs = Inputs(me, to, false);
    if (inputs.size() == 0) continue;
    auto& m = messages.ToSend(to, inputs);
    float* x = m.data();
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
    messages.Send(m);
  }
  absl::Status status = messages.WaitForReceives();
  if (!status.ok()) return status;
  for (auto& m : messages.receives) {
    const float* x = m.data();
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
  return messages.WaitForSends();
}

absl::Status HaloExchange::Backward(const Var& source, const Var& halo) const {
  const int me = comm_.rank();
  const ChunkSpan& span = spans_[me];
  const int64_t time = span.end - span.begin;
  Messages messages(*this, SealKind::kHaloGrad);
  for (int from = me + 1; from < comm_.size(); ++from) {
    const Part inputs = Inputs(me, from, true);
    if (inputs.size() > 0) messages.Receive(from, inputs);
  }
  for (int to = 0; to < me; ++to) {
    const Part inputs = Inputs(to, me, true);
    if (inputs.size() == 0) continue;
    auto& m = messages.ToSend(to, inputs);
    const float* grad = halo.grad().f32();
    float* x = m.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const bool keep = SameDocument(b, p, span.begin);
        const int64_t k = p - (span.begin - width_);
        for (int64_t e = 0; e < channels_; ++e) {
          *x++ = keep ? grad[(b * channels_ + e) * width_ + k] : 0;
        }
      }
    }
    messages.Send(m);
  }
  absl::Status status = messages.WaitForReceives();
  if (!status.ok()) return status;
  const Tensor grad = source.grad();
  for (auto& m : messages.receives) {
    const float* x = m.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const int64_t row = b * time + p - span.begin;
        for (int64_t e = 0; e < channels_; ++e) AddAt(grad, row, e, *x++);
      }
    }
  }
  return messages.WaitForSends();
}

}  // namespace carry
