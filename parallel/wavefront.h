// The WAVEFRONT schedule's carries: chunk c of a sequence runs on rank c mod S.
//
//   forward    rank of c  --carry of each layer-->     rank of c + 1
//   backward   rank of c  --gradient of carry in-->    rank of c - 1
//
// Point to point. Receives for all layers of a chunk are posted when its first
// layer starts; sends never wait. Nothing is added up on the way, so forward
// has the bits of one rank.
//
// A message is a layer's carry, B * CarrySize * 4 bytes, and a seal of 32 bytes
// with its checksum, layer, chunk and direction. The receiver checks the seal:
// what it uses is what its neighbour made, for this layer and chunk.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "framework/nn/language_model.h"
#include "framework/train/carry_exchange.h"
#include "parallel/communicator.h"

namespace carry {

class WavefrontExchange : public CarryExchange {
 public:
  // One pass over sequences of `batch` rows in `chunks` chunks. `sequence` has
  // more than one rank and outlives the exchange, as does `model`. `initial`
  // is for the rank of chunk 0. All ranks make exchanges in the same order.
  WavefrontExchange(Communicator& sequence, const LanguageModel& model,
                    int64_t batch, int64_t chunks, std::vector<Carry> initial);

  absl::StatusOr<Carry> Incoming(int64_t layer, int64_t chunk) override;
  absl::Status Outgoing(int64_t layer, int64_t chunk, Carry carry) override;
  bool NeedsGrad(int64_t chunk) const override { return chunk > 0; }
  absl::StatusOr<Carry> IncomingGrad(int64_t layer, int64_t chunk) override;
  absl::Status OutgoingGrad(int64_t layer, int64_t chunk, Carry grad) override;

  // After the pass: waits for all sends. With `want_final`, the carries out of
  // the last chunk, on rank 0 (empty elsewhere).
  absl::StatusOr<std::vector<Carry>> Finish(bool want_final);

 private:
  struct Message;
  int RankOf(int64_t chunk) const {
    return static_cast<int>(chunk % sequence_.size());
  }
  void PostReceives(int64_t chunk, int from, bool forward);
  absl::StatusOr<Carry> Receive(int64_t layer, int64_t chunk, int from,
                                bool forward);
  void Send(int64_t layer, int64_t chunk, int to, bool forward,
            const Carry& carry);

  Communicator& sequence_;
  const LanguageModel& model_;
  const int64_t batch_, chunks_;
  std::vector<Carry> initial_;
  std::vector<Carry> final_;  // by layer, on the last chunk's rank
  std::vector<std::unique_ptr<Message>> receiving_;  // by layer
  std::deque<std::unique_ptr<Message>> sending_;

 public:
  ~WavefrontExchange() override;
};

}  // namespace carry
