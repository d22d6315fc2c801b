#include "parallel/sealed_message.h"

#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace carry {
namespace {

constexpr int64_t kFloat = sizeof(float);

// A GPU writes checksums to multiples of 8 bytes.
int64_t SealAt(Device memory, int64_t floats) {
  return (memory == Device::kCpu ? floats : (floats + 1) / 2 * 2) * kFloat;
}

}  // namespace

absl::Status SealChecks::Add(const Stamp& due, const Tensor& numbers,
                             const void* seal) {
  if (static_cast<int64_t>(due_.size()) == kMost) {
    absl::Status status = Finish();
    if (!status.ok()) return status;
  }
  if (!found_.defined()) {
    found_ = Tensor::Empty({kMost, kEach}, DType::kU8, MemoryPart::kCarries);
  }
  char* slot = found_.as<char>() + static_cast<int64_t>(due_.size()) * kEach;
  Backend& backend = found_.backend();
  backend.Copy(slot, kSealBytes, seal, kSealBytes, kSealBytes, 1);
  backend.Checksum(numbers.f32(), numbers.size(),
                   reinterpret_cast<uint64_t*>(slot + kSealBytes));
  due_.push_back(due);
  return absl::OkStatus();
}

absl::Status SealChecks::Finish() {
  const std::vector<Stamp> due = std::exchange(due_, {});
  if (due.empty()) return absl::OkStatus();
  const absl::StatusOr<Tensor> found = found_.ToHost();
  if (!found.ok()) return found.status();
  const char* slot = found->as<char>();
  for (const Stamp& stamp : due) {
    uint64_t checksum;
    std::memcpy(&checksum, slot + kSealBytes, sizeof(checksum));
    absl::Status status = CheckSeal(stamp, receiver_, checksum, slot);
    if (!status.ok()) return status;
    slot += kEach;
  }
  return absl::OkStatus();
}

SealedMessage::SealedMessage(const Communicator& comm, int64_t floats,
                             SealChecks* checks)
    : floats_(floats),
      seal_at_(SealAt(comm.memory(), floats)),
      memory_(Tensor::Empty({seal_at_ / kFloat + kSealFloats}, DType::kF32,
                            MemoryPart::kCarries, comm.memory())),
      checks_(checks) {}

absl::Status SealedMessage::Pack(const Tensor& numbers,
                                 const Stamp& stamp) const {
  CARRY_CHECK(numbers.size() == floats_);
  Backend& backend = numbers.backend();
  const int64_t bytes = floats_ * kFloat;
  if (memory_.device() == Device::kCpu) {
    absl::Status status = backend.ToHost(data(), numbers.data(), bytes);
    if (status.ok()) WriteSeal(stamp, data(), floats_, seal());
    return status;
  }
  backend.Copy(data(), bytes, numbers.data(), bytes, bytes, 1);
  char text[kStampBytes];
  WriteStamp(stamp, text);
  backend.FromHost(seal() + sizeof(uint64_t), text, kStampBytes);
  backend.Checksum(data(), floats_, reinterpret_cast<uint64_t*>(seal()));
  return backend.status();
}

absl::Status SealedMessage::Unpack(const Stamp& due, int receiver,
                                   const Tensor& numbers) const {
  CARRY_CHECK(numbers.size() == floats_);
  Backend& backend = numbers.backend();
  const int64_t bytes = floats_ * kFloat;
  if (memory_.device() != Device::kCpu) {
    backend.Copy(numbers.data(), bytes, data(), bytes, bytes, 1);
    return checks_->Add(due, numbers, seal());
  }
  backend.FromHost(numbers.data(), data(), bytes);
  // What will be used, where the host can see it.
  const float* used = numbers.device() == Device::kCpu ? numbers.f32() : data();
  return CheckSeal(due, receiver, used, floats_, seal());
}

}  // namespace carry
