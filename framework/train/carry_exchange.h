// Where a chunk's carries come from and where they go.
//
// This is all that training knows of ranks. One rank keeps carries in a store;
// a schedule over several ranks passes them to neighbours. Layers and chunks
// are those of one pass over one batch of sequences.
//
//   forward of chunk c, each layer l:   Incoming(l, c) ... Outgoing(l, c)
//   backward of chunk c, layers down:   IncomingGrad(l, c) ... OutgoingGrad(l,
//   c)
//
// A chunk that is run a second time for backward keeps its carry from the
// first: it neither receives nor sends.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/nn/carry.h"

namespace carry {

// What goes with a carry from rank to rank: parallel/seal.h.
constexpr int64_t kSealBytes = 32;

class CarryExchange {
 public:
  virtual ~CarryExchange() = default;

  // The carry into a layer's chunk. Undefined: zeros.
  virtual absl::StatusOr<Carry> Incoming(int64_t layer, int64_t chunk) = 0;
  virtual absl::Status Outgoing(int64_t layer, int64_t chunk, Carry carry) = 0;

  // Whether somebody wants the gradient of the carry into `chunk`.
  virtual bool NeedsGrad(int64_t chunk) const = 0;
  // The gradient of the carry out of a layer's chunk. Undefined: zeros.
  virtual absl::StatusOr<Carry> IncomingGrad(int64_t layer, int64_t chunk) = 0;
  // The gradient of the carry into a layer's chunk. Called if NeedsGrad.
  virtual absl::Status OutgoingGrad(int64_t layer, int64_t chunk,
                                    Carry grad) = 0;
};

// All chunks of a sequence on one rank: each carry waits for the next chunk.
class LocalCarryExchange : public CarryExchange {
 public:
  // `initial`: a carry a layer for the first chunk, or empty: zeros.
  // `initial_grad`: whether its gradient is wanted. `final_grad`: gradients of
  // the last chunk's carries out, or empty: zeros.
  LocalCarryExchange(int64_t layers, int64_t chunks,
                     std::vector<Carry> initial = {}, bool initial_grad = false,
                     std::vector<Carry> final_grad = {});

  absl::StatusOr<Carry> Incoming(int64_t layer, int64_t chunk) override;
  absl::Status Outgoing(int64_t layer, int64_t chunk, Carry carry) override;
  bool NeedsGrad(int64_t chunk) const override;
  absl::StatusOr<Carry> IncomingGrad(int64_t layer, int64_t chunk) override;
  absl::Status OutgoingGrad(int64_t layer, int64_t chunk, Carry grad) override;

  // After forward: the carries out of the last chunk.
  const std::vector<Carry>& final() const { return carries_; }
  // After backward, if asked for: the gradients of `initial`.
  const std::vector<Carry>& initial_grad() const { return grads_; }

 private:
  int64_t chunks_;
  bool initial_grad_wanted_;
  std::vector<Carry> carries_;  // by layer: out of the chunk run last
  std::vector<Carry> grads_;    // by layer: of the carry into it
};

}  // namespace carry
