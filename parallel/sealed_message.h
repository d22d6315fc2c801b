// Numbers on their way between ranks, with their seal (parallel/seal.h), in
// memory that the communicator reaches.
//
// Three ways, by where tensors and messages are:
//   both in host memory    the seal is checked when the numbers have come
//   tensors on a GPU,      packing and unpacking copy, and wait for the GPU
//   messages on the host
//   both on a GPU          nothing waits: the GPU makes the checksums, and what
//                          came is compared later, by SealChecks::Finish
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "framework/tensor.h"
#include "parallel/communicator.h"
#include "parallel/seal.h"

namespace carry {

// Seals of messages that came to a GPU, to be compared when the host waits for
// it anyway; at the latest before their numbers change a weight.
class SealChecks {
 public:
  explicit SealChecks(int receiver) : receiver_(receiver) {}

  // Queues the checksum of `numbers` beside their seal.
  absl::Status Add(const Stamp& due, const Tensor& numbers, const void* seal);
  // Waits; kDataLoss as CheckSeal for the first that is not what is due.
  absl::Status Finish();

 private:
  static constexpr int64_t kMost = 256;
  static constexpr int64_t kEach = kSealBytes + 8;  // seal, checksum

  int receiver_;
  Tensor found_;  // uint8 [kMost, kEach]
  std::vector<Stamp> due_;
};

class SealedMessage {
 public:
  // Of `floats` numbers, in memory of `comm`. `checks`, for messages on a GPU,
  // outlives the message.
  SealedMessage(const Communicator& comm, int64_t floats, SealChecks* checks);

  float* data() const { return memory_.f32(); }
  int64_t floats() const { return floats_; }
  int64_t bytes() const { return memory_.bytes(); }
  std::unique_ptr<Transfer>& transfer() { return transfer_; }

  // The numbers of a dense tensor, sealed.
  absl::Status Pack(const Tensor& numbers, const Stamp& stamp) const;
  // The numbers into a dense tensor; kDataLoss, now or from SealChecks, if the
  // seal is not the one that is due for what lies there.
  absl::Status Unpack(const Stamp& due, int receiver,
                      const Tensor& numbers) const;

 private:
  char* seal() const { return memory_.as<char>() + seal_at_; }

  int64_t floats_, seal_at_;
  Tensor memory_;
  SealChecks* checks_;
  std::unique_ptr<Transfer> transfer_;
};

}  // namespace carry
