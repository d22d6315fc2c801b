// When the device did what: spans between two events of a stream, for traces.
//
// Off unless somebody enables it: timed events cost the host some microseconds
// each. Belongs to the thread that enables it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cuda/runtime.h"
#include "kernels/span.h"

namespace carry::cuda {

class DeviceSpans {
 public:
  // A row of the trace.
  enum Lane { kCompute = 1, kSend = 2, kReceive = 3, kCollective = 4 };

  struct Span {
    SpanInfo info;
    Lane lane;
    double begin, end;  // seconds after the last SetOrigin
  };

  // The process's.
  static DeviceSpans& Get();

  bool enabled() const { return enabled_; }
  void Enable(bool on) { enabled_ = on; }

  // Both events are timed and outlived by `begin` and `end`.
  void Add(const SpanInfo& info, Lane lane, std::shared_ptr<const Event> begin,
           std::shared_ptr<const Event> end);
  // Times of spans are counted from when `stream` came to here: now, since it
  // waits for it.
  absl::Status SetOrigin(Stream stream);
  // Spans that have ended since; others stay for the next time.
  std::vector<Span> Take();

 private:
  struct Pending {
    SpanInfo info;
    Lane lane;
    std::shared_ptr<const Event> begin, end;
  };
  bool enabled_ = false;
  std::unique_ptr<Event> origin_;
  std::vector<Pending> pending_;
};

}  // namespace carry::cuda
