// The WAVEFRONT schedule's carries: chunk c of a sequence runs on rank c mod S.
//
//   forward    rank of c  --carry of each layer-->     rank of c + 1
//   backward   rank of c  --gradient of carry in-->    rank of c - 1
//
// Point to point. Receives for all layers of a chunk are posted when its first
// layer starts; sends never wait. Nothing is added up on the way, so forward
// has the bits of one rank.
//
// A message is a layer's carry, B * CarrySize * 4 bytes, and its seal
// (parallel/seal.h). The receiver checks the seal: what it uses is what its
// neighbour made, for this pass, layer and chunk.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "framework/nn/language_model.h"
#include "framework/train/carry_exchange.h"
#include "parallel/communicator.h"
#include "parallel/sealed_message.h"

namespace carry {

class WavefrontExchange : public CarryExchange {
 public:
  struct Options {
    int64_t batch = 0;           // rows
    int64_t chunks = 0;          // of a sequence
    int64_t slot = 0;            // among the passes in flight
    uint32_t pass = 0;           // for the seals; the same on all ranks
    std::vector<Carry> initial;  // on the rank of chunk 0; or empty: zeros
  };
  // One pass. `sequence` has more than one rank and outlives the exchange, as
  // does `model`.
  WavefrontExchange(Communicator& sequence, const LanguageModel& model,
                    Options options);
  ~WavefrontExchange() override;

  absl::StatusOr<Carry> Incoming(int64_t layer, int64_t chunk) override;
  absl::Status Outgoing(int64_t layer, int64_t chunk, Carry carry) override;
  bool NeedsGrad(int64_t chunk) const override { return chunk > 0; }
  absl::StatusOr<Carry> IncomingGrad(int64_t layer, int64_t chunk) override;
  absl::Status OutgoingGrad(int64_t layer, int64_t chunk, Carry grad) override;

  // After the pass: waits for all sends. With `want_final`, the carries out of
  // the last chunk, on rank 0 (empty elsewhere).
  absl::StatusOr<std::vector<Carry>> Finish(bool want_final);

 private:
  int RankOf(int64_t chunk) const {
    return static_cast<int>(chunk % sequence_.size());
  }
  // One a layer, direction and pass in flight: messages of one arrive in order
  // of chunks.
  int Tag(int64_t layer, SealKind kind) const;
  Stamp StampOf(SealKind kind, int64_t layer, int64_t chunk, int sender) const {
    return {kind, options_.pass, layer, chunk, sender};
  }
  std::unique_ptr<SealedMessage> StartReceive(const Stamp& stamp);
  // Receives for the carry into `chunk`, or its gradient, for each layer.
  void PostReceives(SealKind kind, int64_t chunk, int from);
  absl::StatusOr<Carry> Receive(const Stamp& stamp);
  absl::StatusOr<Carry> Take(const Stamp& stamp, SealedMessage& message);
  absl::Status Send(SealKind kind, int64_t layer, int64_t chunk, int to,
                    const Carry& carry);

  Communicator& sequence_;
  const LanguageModel& model_;
  Options options_;
  SealChecks checks_;
  std::vector<Carry> final_;  // by layer, on the last chunk's rank
  std::vector<std::unique_ptr<SealedMessage>> receiving_;  // by layer
  std::deque<std::unique_ptr<SealedMessage>> sending_;
};

}  // namespace carry
