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

// The last rows of each sequence in x [B, T, E], in host memory: x itself, or
// copies that Store brings back.
class LastRows {
 public:
  static absl::StatusOr<LastRows> Load(const Tensor& x, int64_t batch,
                                       int64_t rows) {
    LastRows last(x, batch, std::min(rows, x.rows() / batch));
    if (x.device() == Device::kCpu) {
      last.host_ = x;
      last.kept_ = last.time_;
      return last;
    }
    last.dense_ = Tensor::Empty({batch * last.kept_, x.cols()}, x.dtype());
    for (int64_t b = 0; b < batch; ++b) {
      last.dense_.Rows(b * last.kept_, last.kept_).CopyFrom(last.Of(b));
    }
    absl::StatusOr<Tensor> host = last.dense_.ToHost();
    if (!host.ok()) return host.status();
    last.host_ = *std::move(host);
    return last;
  }

  // Where token t of sequence b is in host().
  int64_t Row(int64_t b, int64_t t) const {
    return b * kept_ + t - (time_ - kept_);
  }
  const Tensor& host() const { return host_; }
  void Store() const {
    if (x_.device() == Device::kCpu) return;
    x_.backend().FromHost(dense_.data(), host_.data(), dense_.bytes());
    for (int64_t b = 0; b < batch_; ++b) {
      Of(b).CopyFrom(dense_.Rows(b * kept_, kept_));
    }
  }

 private:
  LastRows(const Tensor& x, int64_t batch, int64_t rows)
      : x_(x), batch_(batch), time_(x.rows() / batch), kept_(rows) {}
  Tensor Of(int64_t b) const {
    return x_.Rows(b * time_ + time_ - kept_, kept_);
  }

  Tensor x_, dense_, host_;
  int64_t batch_, time_, kept_;
};

}  // namespace

// Messages of one kind and layer: those that this rank gets, those it sends.
struct HaloExchange::Messages {
  struct Message {
    int peer;
    Part inputs;  // by position in the sequence
    SealedMessage sealed;
    float* data() const { return sealed.data(); }
  };

  Messages(const HaloExchange& halo, SealKind kind)
      : halo(halo), kind(kind), tag(static_cast<int>(halo.layer_)) {}

  void Receive(int from, Part inputs) {
    Message& m = Add(receives, from, inputs);
    m.sealed.transfer() =
        halo.comm_.Receive(m.data(), m.sealed.bytes(), from, tag,
                           halo.StampOf(kind, from).Label());
  }
  // To be filled, then sent.
  Message& ToSend(int to, Part inputs) { return Add(sends, to, inputs); }
  void Send(Message& m) {
    const Stamp stamp = halo.StampOf(kind, halo.comm_.rank());
    m.sealed.Seal(stamp);
    m.sealed.transfer() =
        halo.comm_.Send(m.data(), m.sealed.bytes(), m.peer, tag, stamp.Label());
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
      absl::Status status = m.sealed.transfer()->Wait();
      if (status.ok()) status = m.sealed.Check(stamp, halo.comm_.rank());
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }
  absl::Status WaitForSends() {
    for (Message& m : sends) {
      absl::Status status = m.sealed.transfer()->Wait();
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

  Message& Add(std::vector<Message>& list, int peer, Part inputs) {
    const int64_t each = halo.batch_.batch * halo.channels_;
    list.push_back({peer, inputs,
                    SealedMessage(halo.comm_, inputs.size() * each, nullptr)});
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
  Messages messages(*this, SealKind::kHalo);
  absl::StatusOr<LastRows> tail = LastRows::Load(source, batch_.batch, width_);
  if (!tail.ok()) return tail.status();
  absl::StatusOr<Tensor> host_halo = halo.defined() ? halo.ToHost() : halo;
  if (!host_halo.ok()) return host_halo.status();
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
            *x++ = Get(tail->host(), tail->Row(b, p - span.begin), e);
          } else {
            const int64_t at = (b * channels_ + e) * width_ + width_ + p;
            *x++ = halo.defined() ? host_halo->f32()[at] : 0;
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
          host_halo->f32()[(b * channels_ + e) * width_ + k] = keep ? *x : 0;
        }
      }
    }
  }
  if (me > 0 && halo.device() != Device::kCpu) {
    halo.backend().FromHost(halo.data(), host_halo->data(), halo.bytes());
  }
  return messages.WaitForSends();
}

absl::Status HaloExchange::Backward(const Var& source, const Var& halo) const {
  const int me = comm_.rank();
  const ChunkSpan& span = spans_[me];
  Messages messages(*this, SealKind::kHaloGrad);
  for (int from = me + 1; from < comm_.size(); ++from) {
    const Part inputs = Inputs(me, from, true);
    if (inputs.size() > 0) messages.Receive(from, inputs);
  }
  absl::StatusOr<Tensor> halo_grad = Tensor();
  if (me > 0) halo_grad = halo.grad().ToHost();
  if (!halo_grad.ok()) return halo_grad.status();
  for (int to = 0; to < me; ++to) {
    const Part inputs = Inputs(to, me, true);
    if (inputs.size() == 0) continue;
    auto& m = messages.ToSend(to, inputs);
    const float* grad = halo_grad->f32();
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
  if (messages.receives.empty()) return messages.WaitForSends();
  const absl::StatusOr<LastRows> tail =
      LastRows::Load(source.grad(), batch_.batch, width_);
  if (!tail.ok()) return tail.status();
  for (auto& m : messages.receives) {
    const float* x = m.data();
    for (int64_t b = 0; b < batch_.batch; ++b) {
      for (int64_t p = m.inputs.begin; p < m.inputs.end; ++p) {
        const int64_t row = tail->Row(b, p - span.begin);
        for (int64_t e = 0; e < channels_; ++e) {
          AddAt(tail->host(), row, e, *x++);
        }
      }
    }
  }
  tail->Store();
  return messages.WaitForSends();
}

}  // namespace carry
