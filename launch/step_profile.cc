#include "launch/step_profile.h"

#include <algorithm>
#include <cstring>

#include "framework/device.h"
#include "kernels/check.h"

namespace carry {

void StepProfile::Begin(const SpanInfo& info) {
  open_.push_back({info, Clock::now()});
}

void StepProfile::End() {
  CARRY_CHECK(!open_.empty());
  // So that an op's time is its own; an error is reported by the step.
  if (DefaultDevice() != Device::kCpu) {
    BackendOf(DefaultDevice()).Synchronize().IgnoreError();
  }
  const Open span = open_.back();
  open_.pop_back();
  const SpanInfo& info = span.info;
  if (std::strcmp(info.category, "op") != 0) return;
  StepPart& part = parts_[Key(info.name, info.m, info.n, info.k)];
  if (part.calls == 0) {
    part.work = info;
  } else {
    part.work.elements += info.elements;
    part.work.bytes += info.bytes;
  }
  ++part.calls;
  part.seconds +=
      std::chrono::duration<double>(Clock::now() - span.begin).count();
}

std::vector<StepPart> StepProfile::Parts() const {
  std::vector<StepPart> parts;
  for (const auto& [key, part] : parts_) parts.push_back(part);
  std::stable_sort(parts.begin(), parts.end(),
                   [](const StepPart& a, const StepPart& b) {
                     const int order = std::strcmp(a.work.name, b.work.name);
                     return order != 0 ? order < 0 : a.seconds > b.seconds;
                   });
  return parts;
}

}  // namespace carry
