// TensorBoard event files.
//
//   file   := record*                        all integers little-endian
//   record := u64 n, u32 crc(those 8 bytes), n bytes, u32 crc(those n bytes)
//
// where crc is MaskedCrc32c and the n bytes are an Event (launch/event.proto).
// A fresh file begins
//
//   18 00 00 00 00 00 00 00 | a3 7f 4b 22 | 09 <wall time> 1a 0d
//   "brain.Event:2"
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace carry {

// One record of `data`.
std::string EncodeRecord(absl::string_view data);

class EventFile {
 public:
  // Creates `dir`/events.out.tfevents.<seconds>.<host>.<pid>.<n>; `dir` exists.
  // `first_step` > 0: the run goes on from there, and readers are told to drop
  // what an earlier file has from this step on.
  static absl::StatusOr<std::unique_ptr<EventFile>> Create(
      const std::string& dir, int64_t first_step);
  ~EventFile();
  EventFile(const EventFile&) = delete;
  EventFile& operator=(const EventFile&) = delete;

  // Writes and flushes one event with a scalar for each tag. Values that are
  // not finite are written too; readers show them as such.
  absl::Status WriteScalars(
      int64_t step, const std::vector<std::pair<std::string, double>>& scalars);

  const std::string& path() const { return path_; }

 private:
  EventFile(std::string path, std::FILE* file)
      : path_(std::move(path)), file_(file) {}
  absl::Status WriteEvent(const std::string& event);

  std::string path_;
  std::FILE* file_;
};

}  // namespace carry
