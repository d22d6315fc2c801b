#include "parallel/wavefront.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "framework/train/streamed_pass.h"
#include "kernels/span.h"

namespace carry {
namespace {

SpanInfo SpanOf(const char* category, const char* name, const Stamp& stamp,
                int peer) {
  SpanInfo info{.category = category, .name = name};
  info.direction = stamp.Label().direction;
  info.layer = stamp.layer;
  info.chunk = stamp.chunk;
  info.peer = peer;
  return info;
}

}  // namespace

WavefrontExchange::WavefrontExchange(Communicator& sequence,
                                     const LanguageModel& model,
                                     Options options)
    : sequence_(sequence),
      model_(model),
      options_(std::move(options)),
      checks_(sequence.rank()),
      final_(model.layers()),
      receiving_(model.layers()) {
  CARRY_CHECK(sequence.size() > 1 && options_.slot < kMaxPassesInFlight);
  if (options_.initial.empty()) options_.initial.resize(model.layers());
}

WavefrontExchange::~WavefrontExchange() = default;

int WavefrontExchange::Tag(int64_t layer, SealKind kind) const {
  return static_cast<int>((options_.slot * model_.layers() + layer) * 4 +
                          static_cast<int64_t>(kind));
}

std::unique_ptr<SealedMessage> WavefrontExchange::StartReceive(
    const Stamp& stamp) {
  auto message = std::make_unique<SealedMessage>(
      sequence_, options_.batch * CarrySize(model_.carry_spec(stamp.layer)),
      &checks_);
  message->transfer() =
      sequence_.Receive(message->data(), message->bytes(), stamp.sender,
                        Tag(stamp.layer, stamp.kind), stamp.Label());
  return message;
}

void WavefrontExchange::PostReceives(SealKind kind, int64_t chunk, int from) {
  for (int64_t l = 0; l < model_.layers(); ++l) {
    receiving_[l] = StartReceive(StampOf(kind, l, chunk, from));
  }
}

absl::StatusOr<Carry> WavefrontExchange::Receive(const Stamp& stamp) {
  // The first layer to run posts the receives of all.
  const bool forward = stamp.kind == SealKind::kCarry;
  if (stamp.layer == (forward ? 0 : model_.layers() - 1)) {
    PostReceives(stamp.kind, stamp.chunk, stamp.sender);
  }
  const std::unique_ptr<SealedMessage> message =
      std::move(receiving_[stamp.layer]);
  CARRY_CHECK(message != nullptr);
  return Take(stamp, *message);
}

absl::StatusOr<Carry> WavefrontExchange::Take(const Stamp& stamp,
                                              SealedMessage& message) {
  {
    const Span span(SpanOf("wait", "wait for carry", stamp, stamp.sender));
    absl::Status status = message.transfer()->Wait();
    if (!status.ok()) return status;
  }
  const Carry carry =
      Carry::Empty(model_.carry_spec(stamp.layer), options_.batch);
  absl::Status status = message.Unpack(stamp, sequence_.rank(), carry.flat());
  if (!status.ok()) return status;
  return carry;
}

absl::Status WavefrontExchange::Send(SealKind kind, int64_t layer,
                                     int64_t chunk, int to,
                                     const Carry& carry) {
  // Sealed with the chunk that will use it.
  const Stamp stamp = StampOf(kind, layer, chunk, sequence_.rank());
  const Span span(SpanOf("message", "send carry", stamp, to));
  auto message =
      std::make_unique<SealedMessage>(sequence_, carry.flat().size(), &checks_);
  absl::Status status = message->Pack(carry.flat(), stamp);
  if (!status.ok()) return status;
  message->transfer() = sequence_.Send(message->data(), message->bytes(), to,
                                       Tag(layer, kind), stamp.Label());
  sending_.push_back(std::move(message));
  while (!sending_.empty() && sending_.front()->transfer()->Done()) {
    sending_.pop_front();
  }
  return absl::OkStatus();
}

absl::StatusOr<Carry> WavefrontExchange::Incoming(int64_t layer,
                                                  int64_t chunk) {
  if (chunk == 0) return options_.initial[layer];
  return Receive(StampOf(SealKind::kCarry, layer, chunk, RankOf(chunk - 1)));
}

absl::Status WavefrontExchange::Outgoing(int64_t layer, int64_t chunk,
                                         Carry carry) {
  if (chunk + 1 == options_.chunks) {
    final_[layer] = std::move(carry);
    return absl::OkStatus();
  }
  return Send(SealKind::kCarry, layer, chunk + 1, RankOf(chunk + 1), carry);
}

absl::StatusOr<Carry> WavefrontExchange::IncomingGrad(int64_t layer,
                                                      int64_t chunk) {
  if (chunk + 1 == options_.chunks) return Carry();
  return Receive(
      StampOf(SealKind::kCarryGrad, layer, chunk, RankOf(chunk + 1)));
}

absl::Status WavefrontExchange::OutgoingGrad(int64_t layer, int64_t chunk,
                                             Carry grad) {
  CARRY_CHECK(chunk > 0);
  return Send(SealKind::kCarryGrad, layer, chunk - 1, RankOf(chunk - 1), grad);
}

absl::StatusOr<std::vector<Carry>> WavefrontExchange::Finish(bool want_final) {
  const int owner = RankOf(options_.chunks - 1), me = sequence_.rank();
  std::vector<Carry> final;
  if (want_final && me == owner) {
    if (owner == 0) {
      final = std::move(final_);
    } else {
      for (int64_t l = 0; l < model_.layers(); ++l) {
        absl::Status status =
            Send(SealKind::kFinalCarry, l, options_.chunks - 1, 0, final_[l]);
        if (!status.ok()) return status;
      }
    }
  } else if (want_final && me == 0) {
    for (int64_t l = 0; l < model_.layers(); ++l) {
      const Stamp stamp =
          StampOf(SealKind::kFinalCarry, l, options_.chunks - 1, owner);
      absl::StatusOr<Carry> carry = Take(stamp, *StartReceive(stamp));
      if (!carry.ok()) return carry.status();
      final.push_back(*std::move(carry));
    }
  }
  while (!sending_.empty()) {
    absl::Status status = sending_.front()->transfer()->Wait();
    if (!status.ok()) return status;
    sending_.pop_front();
  }
  absl::Status status = checks_.Finish();
  if (!status.ok()) return status;
  return final;
}

}  // namespace carry
