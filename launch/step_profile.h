// What a training step spends its time on, op by op.
#pragma once

#include <chrono>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/span.h"

namespace carry {

// Calls of one op and shape.
struct StepPart {
  SpanInfo work;  // of all calls together; m, n, k of one
  int64_t calls = 0;
  double seconds = 0;

  bool product() const { return work.m > 0; }
  double flops() const {
    return 2.0 * static_cast<double>(work.m) * static_cast<double>(work.n) *
           static_cast<double>(work.k) * static_cast<double>(calls);
  }
};

// Sums spans of the category "op"; on a GPU waits for each, which makes the
// step itself slower. Watches the thread that made it while it lives; nothing
// else may watch that thread then.
class StepProfile : public SpanObserver {
 public:
  StepProfile() { SetSpanObserver(this); }
  ~StepProfile() override { SetSpanObserver(nullptr); }
  StepProfile(const StepProfile&) = delete;
  StepProfile& operator=(const StepProfile&) = delete;

  void Begin(const SpanInfo& info) override;
  void End() override;

  // By name, then shape; longest first within a name.
  std::vector<StepPart> Parts() const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Open {
    SpanInfo info;
    Clock::time_point begin;
  };
  using Key = std::tuple<std::string, int64_t, int64_t, int64_t>;

  std::vector<Open> open_;
  std::map<Key, StepPart> parts_;
};

}  // namespace carry
