// Numbers on their way between ranks, with their seal (parallel/seal.h), in
// memory that the communicator reaches.
//
// Where tensors are on a GPU and the communicator's messages in host memory,
// packing and unpacking copy between the two.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "framework/tensor.h"
#include "parallel/communicator.h"
#include "parallel/seal.h"

namespace carry {

class SealedMessage {
 public:
  explicit SealedMessage(int64_t floats)
      : memory_(Tensor::Empty({floats + kSealFloats}, DType::kF32,
                              MemoryPart::kCarries, Device::kCpu)) {}

  float* data() const { return memory_.f32(); }
  int64_t floats() const { return memory_.size() - kSealFloats; }
  int64_t bytes() const { return memory_.bytes(); }
  std::unique_ptr<Transfer>& transfer() { return transfer_; }

  // The numbers of a dense tensor, sealed. Waits for them.
  absl::Status Pack(const Tensor& numbers, const Stamp& stamp) const {
    absl::Status status = numbers.backend().ToHost(data(), numbers.data(),
                                                   floats() * sizeof(float));
    if (status.ok()) Seal(stamp);
    return status;
  }
  // Seals what was written to data().
  void Seal(const Stamp& stamp) const {
    WriteSeal(stamp, data(), floats(), data() + floats());
  }
  // kDataLoss if the seal is not the one that is due for data().
  absl::Status Check(const Stamp& due, int receiver) const {
    return CheckSeal(due, receiver, data(), floats(), data() + floats());
  }
  // The numbers into a dense tensor, after Check of what lies where they will
  // be used.
  absl::Status Unpack(const Stamp& due, int receiver,
                      const Tensor& numbers) const {
    const int64_t size = floats();
    numbers.backend().FromHost(numbers.data(), data(), size * sizeof(float));
    const float* used =
        numbers.device() == Device::kCpu ? numbers.f32() : data();
    return CheckSeal(due, receiver, used, size, data() + size);
  }

 private:
  Tensor memory_;
  std::unique_ptr<Transfer> transfer_;
};

}  // namespace carry
