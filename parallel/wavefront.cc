#include "parallel/wavefront.h"

#include <xxhash.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

enum Direction : int32_t { kForward = 1, kBackward = 2, kFinal = 3 };

// What the receiver checks.
struct Seal {
  uint64_t checksum;  // of the carry's bytes
  int64_t chunk;
  int32_t layer;
  int32_t direction;
  int64_t floats;
};
static_assert(sizeof(Seal) == 32);

constexpr int64_t kSealFloats = sizeof(Seal) / sizeof(float);

Seal MakeSeal(const float* data, int64_t floats, int64_t layer, int64_t chunk,
              int32_t direction) {
  Seal seal{};
  seal.checksum = XXH3_64bits(data, floats * sizeof(float));
  seal.chunk = chunk;
  seal.layer = static_cast<int32_t>(layer);
  seal.direction = direction;
  seal.floats = floats;
  return seal;
}

const char* Name(int32_t direction) {
  return direction == kBackward ? "backward" : "forward";
}

// A tag a layer and direction: messages of one layer arrive in order of chunks.
int Tag(int64_t layer, int32_t direction) {
  return static_cast<int>(layer * 4 + direction);
}

}  // namespace

struct WavefrontExchange::Message {
  Tensor floats;  // the carry and its seal
  std::unique_ptr<Transfer> transfer;
};

WavefrontExchange::WavefrontExchange(Communicator& sequence,
                                     const LanguageModel& model, int64_t batch,
                                     int64_t chunks, std::vector<Carry> initial)
    : sequence_(sequence),
      model_(model),
      batch_(batch),
      chunks_(chunks),
      initial_(std::move(initial)),
      final_(model.layers()),
      receiving_(model.layers()) {
  CARRY_CHECK(sequence.size() > 1);
  if (initial_.empty()) initial_.resize(model.layers());
}

WavefrontExchange::~WavefrontExchange() = default;

void WavefrontExchange::PostReceives(int64_t chunk, int from, bool forward) {
  const int32_t direction = forward ? kForward : kBackward;
  for (int64_t l = 0; l < model_.layers(); ++l) {
    const int64_t floats = batch_ * CarrySize(model_.carry_spec(l));
    auto message = std::make_unique<Message>();
    message->floats = Tensor::Empty({floats + kSealFloats}, DType::kF32,
                                    MemoryPart::kCarries);
    message->transfer = sequence_.Receive(
        message->floats.data(), message->floats.bytes(), from,
        Tag(l, direction), {"carry", l, chunk, Name(direction)});
    receiving_[l] = std::move(message);
  }
}

absl::StatusOr<Carry> WavefrontExchange::Receive(int64_t layer, int64_t chunk,
                                                 int from, bool forward) {
  const int32_t direction = forward ? kForward : kBackward;
  // The first layer to run posts the receives of all.
  if (layer == (forward ? 0 : model_.layers() - 1)) {
    PostReceives(chunk, from, forward);
  }
  const std::unique_ptr<Message> message = std::move(receiving_[layer]);
  CARRY_CHECK(message != nullptr);
  absl::Status status = message->transfer->Wait();
  if (!status.ok()) return status;
  const int64_t floats = message->floats.size() - kSealFloats;
  Seal seal;
  std::memcpy(&seal, message->floats.f32() + floats, sizeof(seal));
  const Seal due =
      MakeSeal(message->floats.f32(), floats, layer, chunk, direction);
  if (std::memcmp(&seal, &due, sizeof(seal)) != 0) {
    return absl::DataLossError(absl::StrCat(
        "rank ", sequence_.rank(), ": the carry from rank ", from,
        " for layer ", layer, ", chunk ", chunk, ", ", Name(direction),
        " is not what that rank made (it is marked layer ", seal.layer,
        ", chunk ", seal.chunk, ", ", Name(seal.direction),
        seal.checksum == due.checksum ? "" : ", with another checksum",
        "); the run stops here, its last checkpoint is good"));
  }
  const Carry carry = Carry::Empty(model_.carry_spec(layer), batch_);
  std::memcpy(carry.flat().f32(), message->floats.f32(),
              floats * sizeof(float));
  return carry;
}

void WavefrontExchange::Send(int64_t layer, int64_t chunk, int to, bool forward,
                             const Carry& carry) {
  const int32_t direction = forward ? kForward : kBackward;
  const int64_t floats = carry.flat().size();
  auto message = std::make_unique<Message>();
  message->floats =
      Tensor::Empty({floats + kSealFloats}, DType::kF32, MemoryPart::kCarries);
  std::memcpy(message->floats.f32(), carry.flat().f32(),
              floats * sizeof(float));
  const Seal seal =
      MakeSeal(carry.flat().f32(), floats, layer, chunk, direction);
  std::memcpy(message->floats.f32() + floats, &seal, sizeof(seal));
  message->transfer = sequence_.Send(
      message->floats.data(), message->floats.bytes(), to,
      Tag(layer, direction), {"carry", layer, chunk, Name(direction)});
  sending_.push_back(std::move(message));
  while (!sending_.empty() && sending_.front()->transfer->Done()) {
    sending_.pop_front();
  }
}

absl::StatusOr<Carry> WavefrontExchange::Incoming(int64_t layer,
                                                  int64_t chunk) {
  if (chunk == 0) return initial_[layer];
  return Receive(layer, chunk, RankOf(chunk - 1), /*forward=*/true);
}

absl::Status WavefrontExchange::Outgoing(int64_t layer, int64_t chunk,
                                         Carry carry) {
  if (chunk + 1 == chunks_) {
    final_[layer] = std::move(carry);
  } else {
    // Sealed with the chunk that will use it.
    Send(layer, chunk + 1, RankOf(chunk + 1), /*forward=*/true, carry);
  }
  return absl::OkStatus();
}

absl::StatusOr<Carry> WavefrontExchange::IncomingGrad(int64_t layer,
                                                      int64_t chunk) {
  if (chunk + 1 == chunks_) return Carry();
  return Receive(layer, chunk, RankOf(chunk + 1), /*forward=*/false);
}

absl::Status WavefrontExchange::OutgoingGrad(int64_t layer, int64_t chunk,
                                             Carry grad) {
  CARRY_CHECK(chunk > 0);
  Send(layer, chunk - 1, RankOf(chunk - 1), /*forward=*/false, grad);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Carry>> WavefrontExchange::Finish(bool want_final) {
  while (!sending_.empty()) {
    absl::Status status = sending_.front()->transfer->Wait();
    if (!status.ok()) return status;
    sending_.pop_front();
  }
  const int owner = RankOf(chunks_ - 1);
  if (!want_final) return std::vector<Carry>();
  if (owner == 0) {
    return sequence_.rank() == 0 ? std::move(final_) : std::vector<Carry>();
  }
  std::vector<Carry> final;
  if (sequence_.rank() == owner) {
    for (int64_t l = 0; l < model_.layers(); ++l) {
      const Tensor& flat = final_[l].flat();
      absl::Status status =
          sequence_
              .Send(flat.data(), flat.bytes(), 0, Tag(l, kFinal),
                    {"final carry", l, chunks_ - 1, "forward"})
              ->Wait();
      if (!status.ok()) return status;
    }
  } else if (sequence_.rank() == 0) {
    for (int64_t l = 0; l < model_.layers(); ++l) {
      final.push_back(Carry::Empty(model_.carry_spec(l), batch_));
      const Tensor& flat = final[l].flat();
      absl::Status status =
          sequence_
              .Receive(flat.data(), flat.bytes(), owner, Tag(l, kFinal),
                       {"final carry", l, chunks_ - 1, "forward"})
              ->Wait();
      if (!status.ok()) return status;
    }
  }
  return final;
}

}  // namespace carry
