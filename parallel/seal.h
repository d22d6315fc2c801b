// Seals: what proves that a carry is the one that its neighbour made.
//
// A sealed message is fp32 numbers and, behind them, 32 bytes:
//
//   0   8  XXH3-64 of the numbers' bytes, or between GPUs kernels/checksum.h
//   8   8  chunk (PREFIX: shard of the sender)
//   16  4  pass, counted by every rank from the start of the run
//   20  4  layer
//   24  4  kind, which has a direction
//   28  4  sender, its rank in the sequence group
//
// in the byte order of the machines of a run, which are alike. The receiver
// knows every field but the checksum from its own schedule and compares all of
// it after the numbers lie where they will be used.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "framework/train/carry_exchange.h"
#include "parallel/communicator.h"

namespace carry {

enum class SealKind : int32_t {
  kCarry = 1,
  kCarryGrad = 2,
  kFinalCarry = 3,
  kHalo = 4,
  kHaloGrad = 5,
  kSummary = 6,
  kSummaryGrad = 7,
};

// What both sides know of a message.
struct Stamp {
  SealKind kind = SealKind::kCarry;
  uint32_t pass = 0;
  int64_t layer = 0;
  int64_t chunk = 0;
  int sender = 0;

  // "carry, layer 3, chunk 17, forward"
  CommLabel Label() const;
};

constexpr int64_t kSealFloats = kSealBytes / 4;
// What of a seal follows the checksum.
constexpr int64_t kStampBytes = kSealBytes - 8;
void WriteStamp(const Stamp& stamp, void* to);

// Writes the seal of `data` to `seal`, kSealBytes, which may be unaligned.
void WriteSeal(const Stamp& stamp, const float* data, int64_t floats,
               void* seal);

// kDataLoss naming rank, peer, layer, chunk and direction, and what the message
// is marked as, if the seal is not the one that is due.
absl::Status CheckSeal(const Stamp& due, int receiver, const float* data,
                       int64_t floats, const void* seal);
// The same where `checksum` is that of what came.
absl::Status CheckSeal(const Stamp& due, int receiver, uint64_t checksum,
                       const void* seal);

}  // namespace carry
