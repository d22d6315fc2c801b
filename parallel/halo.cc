#include "parallel/halo.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/span.h"

namespace carry {

// Messages of one kind and layer: those that this rank gets, those it sends.
struct HaloExchange::Messages {
  struct Message {
    int peer;
    Part inputs;     // by position in the sequence
    Tensor numbers;  // [B, inputs, E]
    SealedMessage sealed;
  };

  Messages(const HaloExchange& halo, SealKind kind)
      : halo(halo), kind(kind), tag(static_cast<int>(halo.layer_)) {}

  void Receive(int from, Part inputs) {
    Message& m = Add(receives, from, inputs);
    m.sealed.transfer() =
        halo.comm_.Receive(m.sealed.data(), m.sealed.bytes(), from, tag,
                           halo.StampOf(kind, from).Label());
  }
  // Its numbers are to be filled, then sent.
  Message& ToSend(int to, Part inputs) { return Add(sends, to, inputs); }
  absl::Status Send(Message& m) {
    const Stamp stamp = halo.StampOf(kind, halo.comm_.rank());
    absl::Status status = m.sealed.Pack(m.numbers, stamp);
    if (!status.ok()) return status;
    m.sealed.transfer() = halo.comm_.Send(m.sealed.data(), m.sealed.bytes(),
                                          m.peer, tag, stamp.Label());
    return absl::OkStatus();
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
      if (status.ok()) {
        status = m.sealed.Unpack(stamp, halo.comm_.rank(), m.numbers);
      }
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
    const Shape shape = {halo.batch_.batch, inputs.size(), halo.channels_};
    list.push_back({peer, inputs, Tensor::Empty(shape, DType::kF32),
                    SealedMessage(halo.comm_, Product(shape), halo.checks_)});
    return list.back();
  }

  const HaloExchange& halo;
  const SealKind kind;
  const int tag;
  std::vector<Message> receives, sends;
};

namespace {

// Inputs [B, inputs, E] from the input at `begin` on.
StridedView NumbersFrom(const Tensor& numbers, int64_t begin) {
  const int64_t inputs = numbers.dim(1), channels = numbers.dim(2);
  return {numbers.f32() + begin * channels,
          DType::kF32,
          {inputs * channels, channels, 1}};
}

// The same of x [B, T, E], from token `begin` on.
StridedView TokensFrom(const Tensor& x, int64_t batch, int64_t begin) {
  const int64_t time = x.rows() / batch;
  return {x.as<char>() + begin * x.stride() * SizeOf(x.dtype()),
          x.dtype(),
          {time * x.stride(), x.stride(), 1}};
}

// The same of a halo [B, E, W].
StridedView HaloFrom(const Tensor& halo, int64_t begin) {
  if (!halo.defined()) return {};
  const int64_t channels = halo.dim(1), width = halo.dim(2);
  return {halo.f32() + begin, DType::kF32, {channels * width, 1, width}};
}

}  // namespace

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

Tensor HaloExchange::KeepMask(Part inputs, int64_t shard_begin) const {
  std::vector<uint8_t> keep;
  for (int64_t b = 0; b < batch_.batch; ++b) {
    for (int64_t p = inputs.begin; p < inputs.end; ++p) {
      keep.push_back(SameDocument(b, p, shard_begin));
    }
  }
  if (std::find(keep.begin(), keep.end(), 0) == keep.end()) return Tensor();
  return Tensor::FromHost(keep.data(), {batch_.batch, inputs.size()},
                          DType::kU8, MemoryPart::kData);
}

void HaloExchange::Copy(const StridedView& from, const StridedView& to,
                        int64_t inputs, const Tensor& keep, Write write) const {
  StridedCopyArgs args{};
  args.size[0] = batch_.batch;
  args.size[1] = inputs;
  args.size[2] = channels_;
  args.src = from;
  args.dst = to;
  args.keep = keep.defined() ? keep.as<uint8_t>() : nullptr;
  args.write = write;
  BackendOf(DefaultDevice()).StridedCopy(args);
}

absl::Status HaloExchange::Forward(const Tensor& source,
                                   const Tensor& halo) const {
  const int me = comm_.rank();
  const ChunkSpan& span = spans_[me];
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
    // Those before the sequence are the initial carry's.
    const int64_t before = std::clamp<int64_t>(-inputs.begin, 0, inputs.size());
    Copy(HaloFrom(halo, width_ + inputs.begin), NumbersFrom(m.numbers, 0),
         before, Tensor(), Write::kOverwrite);
    Copy(TokensFrom(source, batch_.batch, inputs.begin + before - span.begin),
         NumbersFrom(m.numbers, before), inputs.size() - before, Tensor(),
         Write::kOverwrite);
    absl::Status status = messages.Send(m);
    if (!status.ok()) return status;
  }
  absl::Status status = messages.WaitForReceives();
  if (!status.ok()) return status;
  for (const auto& m : messages.receives) {
    Copy(NumbersFrom(m.numbers, 0),
         HaloFrom(halo, m.inputs.begin - (span.begin - width_)),
         m.inputs.size(), KeepMask(m.inputs, span.begin), Write::kOverwrite);
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
  for (int to = 0; to < me; ++to) {
    const Part inputs = Inputs(to, me, true);
    if (inputs.size() == 0) continue;
    auto& m = messages.ToSend(to, inputs);
    Copy(HaloFrom(halo.grad(), inputs.begin - (span.begin - width_)),
         NumbersFrom(m.numbers, 0), inputs.size(), KeepMask(inputs, span.begin),
         Write::kOverwrite);
    absl::Status status = messages.Send(m);
    if (!status.ok()) return status;
  }
  absl::Status status = messages.WaitForReceives();
  if (!status.ok()) return status;
  for (const auto& m : messages.receives) {
    Copy(NumbersFrom(m.numbers, 0),
         TokensFrom(source.grad(), batch_.batch, m.inputs.begin - span.begin),
         m.inputs.size(), Tensor(), Write::kAccumulate);
  }
  return messages.WaitForSends();
}

}  // namespace carry
