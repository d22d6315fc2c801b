// `--trace FILE`: what every rank did when, for Chrome's about:tracing and
// https://ui.perfetto.dev.
//
// The file is one JSON object in the Trace Event Format:
//
//   {"displayTimeUnit":"ms","traceEvents":[
//   {"ph":"M","pid":1,"name":"process_name","args":{"name":"rank 1"}},
//   {"ph":"X","pid":1,"tid":0,"ts":1204.512,"dur":38.250,"cat":"wait",
//    "name":"wait for carry",
//    "args":{"direction":"forward","layer":2,"chunk":5,"peer":0}},
//   ...
//   ],"otherData":{"dropped":0,"wait_share":[0.0312,0.0287]}}
//
// One event a line. `pid` is the rank; `ts` and `dur` are microseconds of rank
// 0's clock; spans of a row nest. `cat` is a span's category (kernels/span.h):
// step, pass (a chunk's forward or backward), layer, op, message, wait.
//
// `tid` 0 is the host. On a GPU its ops take as long as they take to queue, and
// rows 1 to 4 say when the device did them, from its own events: ops, and what
// NCCL sent, received and reduced meanwhile.
//
// `wait_share` is by rank: time in spans of category wait over that in steps;
// on a GPU, time in steps in which it ran no op.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/train/distribution.h"
#include "kernels/cuda/runtime.h"
#include "kernels/span.h"

namespace carry {

// Keeps the first spans of the thread that made it, while it lives; nothing
// else may watch that thread then. Memory: 72 bytes a span, no more than
// `most`; later ones are counted.
class TraceRecorder : public SpanObserver {
 public:
  struct Event {
    const char* category;
    const char* name;
    const char* direction;
    int64_t chunk;
    int32_t layer, peer;
    int64_t begin, end;  // ns of this machine's steady clock; end 0: open
    int32_t row = 0;
  };

  explicit TraceRecorder(int64_t most);
  ~TraceRecorder() override;
  TraceRecorder(const TraceRecorder&) = delete;
  TraceRecorder& operator=(const TraceRecorder&) = delete;

  void Begin(const SpanInfo& info) override;
  void End() override;

  // In the order of their beginnings.
  const std::vector<Event>& events() const { return events_; }
  int64_t dropped() const { return dropped_; }
  // Also of spans that were dropped.
  double WaitShare() const;

 private:
  struct Open {
    int64_t event;  // -1: dropped
    int64_t begin;
    bool wait, step;
    std::shared_ptr<cuda::Event> device;  // of an op on a GPU
    SpanInfo info;
  };
  bool Add(const Event& event);
  void BeginDeviceStep();
  void EndDeviceStep();

  const int64_t most_;
  std::vector<Event> events_;
  std::vector<Open> open_;
  int64_t dropped_ = 0;
  int64_t wait_ns_ = 0, step_ns_ = 0;
  int waits_open_ = 0;  // they may nest; the outer one counts
  // On a GPU: its stream, when its origin was, and time in ops.
  const bool device_;
  int64_t device_origin_ = 0, device_ns_ = 0;
};

// A trace of all ranks. Every method is collective.
class Trace {
 public:
  // Rank 0 opens the file; every rank begins to record, and learns how far its
  // clock is from rank 0's: a message out and one back bound the difference,
  // and of what they allow the smallest is taken, which is 0 on one machine.
  static absl::StatusOr<std::unique_ptr<Trace>> Start(const std::string& path,
                                                      int64_t most_spans,
                                                      Distribution& ranks);
  ~Trace();

  // Gathers and writes, piece by piece; ends recording. Returns the ranks' wait
  // shares, by rank.
  absl::StatusOr<std::vector<double>> Finish();

 private:
  Trace(std::string path, Distribution& ranks)
      : path_(std::move(path)), ranks_(ranks) {}
  absl::Status AlignClocks();
  // Lines of events from `*next` on, about a piece; moves `*next`.
  std::string Piece(size_t* next) const;
  void Write(const std::string& text);

  std::string path_;
  Distribution& ranks_;
  std::FILE* file_ = nullptr;  // on rank 0
  bool failed_ = false;        // to write
  int64_t origin_ = 0;         // of this rank's clock: ts 0
  std::unique_ptr<TraceRecorder> recorder_;
};

}  // namespace carry
