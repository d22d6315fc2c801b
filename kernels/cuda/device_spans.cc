#include "kernels/cuda/device_spans.h"

#include <utility>

namespace carry::cuda {

DeviceSpans& DeviceSpans::Get() {
  static DeviceSpans* spans = new DeviceSpans;
  return *spans;
}

void DeviceSpans::Add(const SpanInfo& info, Lane lane,
                      std::shared_ptr<const Event> begin,
                      std::shared_ptr<const Event> end) {
  if (enabled_) {
    pending_.push_back({info, lane, std::move(begin), std::move(end)});
  }
}

absl::Status DeviceSpans::SetOrigin(Stream stream) {
  auto origin = std::make_unique<Event>(/*timed=*/true);
  absl::Status status = ToStatus(origin->Record(stream));
  if (status.ok()) status = origin->Wait();
  if (status.ok()) origin_ = std::move(origin);
  return status;
}

std::vector<DeviceSpans::Span> DeviceSpans::Take() {
  std::vector<Span> spans;
  std::vector<Pending> later;
  for (Pending& p : pending_) {
    if (origin_ == nullptr || !p.end->Passed().value_or(false)) {
      later.push_back(std::move(p));
      continue;
    }
    spans.push_back({p.info, p.lane, Event::SecondsBetween(*origin_, *p.begin),
                     Event::SecondsBetween(*origin_, *p.end)});
  }
  pending_ = std::move(later);
  return spans;
}

}  // namespace carry::cuda
