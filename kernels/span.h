// Named stretches of time, for traces and for tables of what a step costs.
//
// A Span is open from its construction to its destruction; those of a thread
// nest. Whoever wants to see them sets an observer for the thread; without one
// a Span costs a read of a thread-local pointer.
//
//   const Span span({.category = "op", .name = "scan forward"});
//
// Thread safety: each thread has its own observer. Threads that a kernel starts
// for itself have none.
#pragma once

#include <cstdint>

#include "kernels/types.h"

namespace carry {

// Texts are literals: observers keep the pointers. -1 and 0: does not apply.
struct SpanInfo {
  // "step", "data", "pass" (of a chunk), "layer", "op", "message", "wait" (for
  // other ranks), "save", "evaluation"
  const char* category = "";
  const char* name = "";
  const char* direction = "";  // "forward" or "backward"
  int64_t layer = -1;
  int64_t chunk = -1;
  int64_t peer = -1;

  // The work of an op, to compare its time with a limit.
  DType dtype = DType::kF32;    // of the activations
  int64_t m = 0, n = 0, k = 0;  // a product [m, k] [k, n]
  int64_t elements = 0;         // (token, channel, state) of a scan
  int64_t bytes = 0;            // that it must read and write
};

class SpanObserver {
 public:
  virtual ~SpanObserver() = default;
  virtual void Begin(const SpanInfo& info) = 0;
  // Of the span begun last and not ended yet.
  virtual void End() = 0;
};

namespace internal {
inline thread_local SpanObserver* span_observer = nullptr;
}  // namespace internal

// Of this thread; nullptr: none. No span may be open.
inline void SetSpanObserver(SpanObserver* observer) {
  internal::span_observer = observer;
}
inline SpanObserver* GetSpanObserver() { return internal::span_observer; }

class Span {
 public:
  explicit Span(const SpanInfo& info) : observer_(internal::span_observer) {
    if (observer_ != nullptr) observer_->Begin(info);
  }
  ~Span() {
    if (observer_ != nullptr) observer_->End();
  }
  Span(const Span&) = delete;
  Span& operator=(const Span&) = delete;

 private:
  SpanObserver* observer_;
};

}  // namespace carry
