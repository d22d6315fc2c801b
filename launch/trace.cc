#include "launch/trace.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <limits>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "framework/device.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/device_spans.h"

namespace carry {
namespace {

using cuda::DeviceSpans;

// Every rank holds one piece of each at a time.
constexpr size_t kPieceBytes = size_t{128} << 10;
constexpr int kClockRounds = 16;

int64_t Now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

bool Is(const char* text, const char* word) {
  return std::strcmp(text, word) == 0;
}

cuda::Stream ComputeStream() {
  return cuda::StreamOf(BackendOf(Device::kCuda));
}

std::shared_ptr<cuda::Event> RecordNow() {
  auto event = std::make_shared<cuda::Event>(/*timed=*/true);
  // A span whose event failed never ends and is left out.
  static_cast<void>(event->Record(ComputeStream()).ok());
  return event;
}

std::string Line(const TraceRecorder::Event& e, int rank, int64_t origin) {
  std::string args;
  const auto add = [&args](const char* name, const std::string& value) {
    absl::StrAppend(&args, args.empty() ? "" : ",", "\"", name, "\":", value);
  };
  if (e.direction[0] != '\0') {
    add("direction", absl::StrCat("\"", e.direction, "\""));
  }
  if (e.layer >= 0) add("layer", absl::StrCat(e.layer));
  if (e.chunk >= 0) add("chunk", absl::StrCat(e.chunk));
  if (e.peer >= 0) add("peer", absl::StrCat(e.peer));
  std::string name = e.name;
  if (Is(e.category, "layer")) absl::StrAppend(&name, " ", e.layer);
  return absl::StrFormat(
      ",\n{\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,"
      "\"cat\":\"%s\",\"name\":\"%s\",\"args\":{%s}}",
      rank, e.row, static_cast<double>(e.begin - origin) * 1e-3,
      static_cast<double>(e.end - e.begin) * 1e-3, e.category, name, args);
}

std::string RowNames(int rank) {
  const char* names[] = {"host", "GPU: ops", "GPU: sends", "GPU: receives",
                         "GPU: collectives"};
  std::string text;
  for (int row = 0; row < 5; ++row) {
    absl::StrAppendFormat(&text,
                          ",\n{\"ph\":\"M\",\"pid\":%d,\"tid\":%d,"
                          "\"name\":\"thread_name\","
                          "\"args\":{\"name\":\"%s\"}}",
                          rank, row, names[row]);
  }
  return text;
}

}  // namespace

TraceRecorder::TraceRecorder(int64_t most)
    : most_(most), device_(DefaultDevice() == Device::kCuda) {
  SetSpanObserver(this);
  DeviceSpans::Get().Enable(device_);
}

TraceRecorder::~TraceRecorder() {
  SetSpanObserver(nullptr);
  DeviceSpans::Get().Enable(false);
}

bool TraceRecorder::Add(const Event& event) {
  if (static_cast<int64_t>(events_.size()) == most_) {
    ++dropped_;
    return false;
  }
  events_.push_back(event);
  return true;
}

// Errors of the device are the step's own.
void TraceRecorder::BeginDeviceStep() {
  DeviceSpans::Get().SetOrigin(ComputeStream()).IgnoreError();
  device_origin_ = Now();
}

void TraceRecorder::EndDeviceStep() {
  BackendOf(Device::kCuda).Synchronize().IgnoreError();
  for (const DeviceSpans::Span& span : DeviceSpans::Get().Take()) {
    const auto at = [this](double seconds) {
      return device_origin_ + static_cast<int64_t>(seconds * 1e9);
    };
    const SpanInfo& info = span.info;
    Add({info.category, info.name, info.direction, info.chunk,
         static_cast<int32_t>(info.layer), static_cast<int32_t>(info.peer),
         at(span.begin), at(span.end), span.lane});
    if (span.lane == DeviceSpans::kCompute) {
      device_ns_ += at(span.end) - at(span.begin);
    }
  }
}

void TraceRecorder::Begin(const SpanInfo& info) {
  Open open;
  open.event = -1;
  open.info = info;
  open.wait = Is(info.category, "wait");
  // A step is what no other span surrounds.
  open.step = Is(info.category, "step") && open_.empty();
  if (device_ && open.step) BeginDeviceStep();
  open.begin = Now();
  if (open.wait) ++waits_open_;
  if (Add({info.category, info.name, info.direction, info.chunk,
           static_cast<int32_t>(info.layer), static_cast<int32_t>(info.peer),
           open.begin, 0})) {
    open.event = static_cast<int64_t>(events_.size()) - 1;
  }
  if (device_ && Is(info.category, "op")) open.device = RecordNow();
  open_.push_back(std::move(open));
}

void TraceRecorder::End() {
  if (open_.empty()) return;  // begun before the recorder
  const Open open = std::move(open_.back());
  open_.pop_back();
  if (open.device != nullptr) {
    DeviceSpans::Get().Add(open.info, DeviceSpans::kCompute, open.device,
                           RecordNow());
  }
  if (device_ && open.step) EndDeviceStep();
  const int64_t now = Now();
  if (open.event >= 0) events_[open.event].end = now;
  if (open.step) step_ns_ += now - open.begin;
  if (open.wait && --waits_open_ == 0) wait_ns_ += now - open.begin;
}

double TraceRecorder::WaitShare() const {
  if (device_ && step_ns_ > 0) {
    return 1 - static_cast<double>(device_ns_) / static_cast<double>(step_ns_);
  }
  return step_ns_ > 0
             ? static_cast<double>(wait_ns_) / static_cast<double>(step_ns_)
             : 0;
}

absl::StatusOr<std::unique_ptr<Trace>> Trace::Start(const std::string& path,
                                                    int64_t most_spans,
                                                    Distribution& ranks) {
  std::unique_ptr<Trace> trace(new Trace(path, ranks));
  if (ranks.rank() == 0) {
    trace->file_ = std::fopen(path.c_str(), "wb");
    if (trace->file_ == nullptr) {
      return absl::UnavailableError(
          absl::StrCat(path, ": cannot write: ", std::strerror(errno)));
    }
  }
  absl::Status status = trace->AlignClocks();
  if (!status.ok()) return status;
  trace->recorder_ = std::make_unique<TraceRecorder>(most_spans);
  return trace;
}

Trace::~Trace() {
  if (file_ != nullptr) std::fclose(file_);
}

// Everybody looks at its clock and then meets in a gather, again and again. A
// rank looks for the k-th time after rank 0 has looked for the (k-1)-th, and
// before rank 0 looks for the (k+1)-th.
absl::Status Trace::AlignClocks() {
  std::vector<std::vector<int64_t>> looks;  // by round and rank
  for (int round = 0; round < kClockRounds; ++round) {
    absl::StatusOr<std::vector<std::string>> all =
        ranks_.Gather("clocks", absl::StrCat(Now()));
    if (!all.ok()) return all.status();
    looks.emplace_back();
    for (const std::string& text : *all) {
      int64_t look = 0;
      if (!absl::SimpleAtoi(text, &look)) {
        return absl::InternalError("a rank's clock is no number");
      }
      looks.back().push_back(look);
    }
  }
  // This clock less rank 0's is between these.
  int64_t least = std::numeric_limits<int64_t>::min();
  int64_t most = std::numeric_limits<int64_t>::max();
  for (int k = 1; k + 1 < kClockRounds; ++k) {
    const int64_t mine = looks[k][ranks_.rank()];
    least = std::max(least, mine - looks[k + 1][0]);
    most = std::min(most, mine - looks[k - 1][0]);
  }
  const int64_t ahead =
      std::clamp<int64_t>(0, std::min(least, most), std::max(least, most));
  origin_ = looks.back()[0] + ahead;
  return absl::OkStatus();
}

std::string Trace::Piece(size_t* next) const {
  std::string text;
  const std::vector<TraceRecorder::Event>& events = recorder_->events();
  for (; *next < events.size() && text.size() < kPieceBytes; ++*next) {
    const TraceRecorder::Event& event = events[*next];
    if (event.end != 0) text += Line(event, ranks_.rank(), origin_);
  }
  return text;
}

void Trace::Write(const std::string& text) {
  failed_ |= std::fwrite(text.data(), 1, text.size(), file_) != text.size();
}

absl::StatusOr<std::vector<double>> Trace::Finish() {
  SetSpanObserver(nullptr);
  const bool writes = ranks_.rank() == 0;
  if (writes) {
    Write("{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
    for (int r = 0; r < ranks_.size(); ++r) {
      Write(absl::StrFormat(
          "%s\n{\"ph\":\"M\",\"pid\":%d,\"name\":\"process_name\","
          "\"args\":{\"name\":\"rank %d\"}}",
          r == 0 ? "" : ",", r, r));
      if (DefaultDevice() == Device::kCuda) Write(RowNames(r));
    }
  }
  size_t next = 0;
  for (bool more = true; more;) {
    absl::StatusOr<std::vector<std::string>> all =
        ranks_.Gather("trace", Piece(&next));
    if (!all.ok()) return all.status();
    more = false;
    for (const std::string& text : *all) {
      more |= !text.empty();
      if (writes) Write(text);
    }
  }
  std::vector<double> sums(ranks_.size() + 1);
  sums[ranks_.rank()] = recorder_->WaitShare();
  sums.back() = static_cast<double>(recorder_->dropped());
  absl::Status status = ranks_.Sum(sums);
  if (!status.ok()) return status;
  const int64_t dropped = static_cast<int64_t>(sums.back());
  sums.pop_back();
  if (!writes) return sums;
  Write(absl::StrFormat(
      "\n],\"otherData\":{\"dropped\":%d,\"wait_share\":[%s]}}\n", dropped,
      absl::StrJoin(sums, ",", [](std::string* out, double share) {
        absl::StrAppendFormat(out, "%.4f", share);
      })));
  failed_ |= std::fclose(std::exchange(file_, nullptr)) != 0;
  if (failed_) {
    return absl::UnavailableError(absl::StrCat(path_, ": cannot write"));
  }
  return sums;
}

}  // namespace carry
