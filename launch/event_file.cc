#include "launch/event_file.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "launch/crc32c.h"
#include "launch/event.pb.h"

namespace carry {
namespace {

template <class Int>
void AppendLittleEndian(Int value, std::string* out) {
  for (size_t i = 0; i < sizeof(Int); ++i) {
    out->push_back(static_cast<char>((value >> (8 * i)) & 0xff));
  }
}

double Now() {
  return std::chrono::duration<double>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace

std::string EncodeRecord(absl::string_view data) {
  std::string record;
  AppendLittleEndian(static_cast<uint64_t>(data.size()), &record);
  AppendLittleEndian(MaskedCrc32c(record), &record);
  absl::StrAppend(&record, data);
  AppendLittleEndian(MaskedCrc32c(data), &record);
  return record;
}

absl::StatusOr<std::unique_ptr<EventFile>> EventFile::Create(
    const std::string& dir, int64_t first_step) {
  static std::atomic<int> count{0};
  char host[256] = "localhost";
  gethostname(host, sizeof(host) - 1);
  const double now = Now();
  std::string path =
      absl::StrCat(dir, "/events.out.tfevents.", static_cast<int64_t>(now), ".",
                   host, ".", getpid(), ".", count++);
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot create: ", std::strerror(errno)));
  }
  std::unique_ptr<EventFile> out(new EventFile(std::move(path), file));
  event::Event version;
  version.set_wall_time(now);
  version.set_file_version("brain.Event:2");
  absl::Status status = out->WriteEvent(version.SerializeAsString());
  if (status.ok() && first_step > 0) {
    event::Event start;
    start.set_wall_time(now);
    start.set_step(first_step);
    start.mutable_session_log()->set_status(event::SessionLog::START);
    status = out->WriteEvent(start.SerializeAsString());
  }
  if (!status.ok()) return status;
  return out;
}

EventFile::~EventFile() { std::fclose(file_); }

absl::Status EventFile::WriteEvent(const std::string& event) {
  const std::string record = EncodeRecord(event);
  if (std::fwrite(record.data(), 1, record.size(), file_) != record.size() ||
      std::fflush(file_) != 0) {
    return absl::UnavailableError(
        absl::StrCat(path_, ": cannot write: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status EventFile::WriteScalars(
    int64_t step, const std::vector<std::pair<std::string, double>>& scalars) {
  event::Event event;
  event.set_wall_time(Now());
  event.set_step(step);
  for (const auto& [tag, value] : scalars) {
    event::Summary::Value* out = event.mutable_summary()->add_value();
    out->set_tag(tag);
    out->set_simple_value(static_cast<float>(value));
  }
  return WriteEvent(event.SerializeAsString());
}

}  // namespace carry
