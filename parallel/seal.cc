#include "parallel/seal.h"

#include <xxhash.h>

#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

struct Seal {
  uint64_t checksum;
  int64_t chunk;
  uint32_t pass;
  int32_t layer;
  int32_t kind;
  int32_t sender;
};
static_assert(sizeof(Seal) == kSealBytes && offsetof(Seal, chunk) == 8);

struct KindName {
  const char* operation;
  const char* direction;
};

KindName Name(SealKind kind) {
  switch (kind) {
    case SealKind::kCarry:
      return {"carry", "forward"};
    case SealKind::kCarryGrad:
      return {"carry", "backward"};
    case SealKind::kFinalCarry:
      return {"final carry", "forward"};
    case SealKind::kHalo:
      return {"halo", "forward"};
    case SealKind::kHaloGrad:
      return {"halo gradient", "backward"};
    case SealKind::kSummary:
      return {"summary", "forward"};
    case SealKind::kSummaryGrad:
      return {"gradient summary", "backward"};
  }
  return {"no kind of message", ""};
}

Seal MakeSeal(const Stamp& stamp, uint64_t checksum) {
  Seal seal{};
  seal.checksum = checksum;
  seal.chunk = stamp.chunk;
  seal.pass = stamp.pass;
  seal.layer = static_cast<int32_t>(stamp.layer);
  seal.kind = static_cast<int32_t>(stamp.kind);
  seal.sender = stamp.sender;
  return seal;
}

}  // namespace

CommLabel Stamp::Label() const {
  const KindName name = Name(kind);
  return {name.operation, layer, chunk, name.direction};
}

void WriteSeal(const Stamp& stamp, const float* data, int64_t floats,
               void* seal) {
  const Seal made = MakeSeal(stamp, XXH3_64bits(data, floats * sizeof(float)));
  std::memcpy(seal, &made, sizeof(made));
}

void WriteStamp(const Stamp& stamp, void* to) {
  const Seal made = MakeSeal(stamp, 0);
  std::memcpy(to, reinterpret_cast<const char*>(&made) + sizeof(made.checksum),
              kStampBytes);
}

absl::Status CheckSeal(const Stamp& due, int receiver, const float* data,
                       int64_t floats, const void* seal) {
  return CheckSeal(due, receiver, XXH3_64bits(data, floats * sizeof(float)),
                   seal);
}

absl::Status CheckSeal(const Stamp& due, int receiver, uint64_t checksum,
                       const void* seal) {
  Seal got;
  std::memcpy(&got, seal, sizeof(got));
  const Seal want = MakeSeal(due, checksum);
  if (std::memcmp(&got, &want, sizeof(got)) == 0) return absl::OkStatus();
  const Stamp marked = {static_cast<SealKind>(got.kind), got.pass, got.layer,
                        got.chunk, got.sender};
  return absl::DataLossError(absl::StrCat(
      "rank ", receiver, ": what came from rank ", due.sender, " as ",
      due.Label().ToString(),
      " is not what that rank made for it: it is "
      "marked ",
      marked.Label().ToString(), ", pass ", got.pass, " of rank ", got.sender,
      got.checksum == want.checksum ? ""
                                    : ", and its numbers have another checksum",
      " (pass ", due.pass,
      " is due); the run stops here, its last checkpoint is good"));
}

}  // namespace carry
