// Stands in for runtime.cc where there is no nvcc.
#include "kernels/check.h"
#include "kernels/cuda/runtime.h"

namespace carry::cuda {
namespace {

absl::Status NotBuilt() {
  return absl::UnavailableError(
      "this program was built without CUDA; build it where nvcc is on the path "
      "(cmake -DCARRY_CUDA=ON), or set device: CPU");
}

}  // namespace

bool Built() { return false; }
absl::StatusOr<int> CountDevices() { return NotBuilt(); }
absl::StatusOr<DeviceProperties> UseDevice(int) { return NotBuilt(); }
absl::Status ToStatus(int, const char*) { return NotBuilt(); }
void* MallocDevice(int64_t) { return nullptr; }
void FreeDevice(void*) {}
void* MallocPinned(int64_t) { return nullptr; }
void FreePinned(void*) {}
int64_t FreeDeviceMemory() { return 0; }
LaunchStatus CopyAsync(void*, int64_t, const void*, int64_t, int64_t, int64_t,
                       Stream) {
  return {1, "no CUDA"};
}
LaunchStatus ZeroAsync(void*, int64_t, int64_t, int64_t, Stream) {
  return {1, "no CUDA"};
}
absl::Status Synchronize(Stream, const char*) { return NotBuilt(); }
OwnedStream::OwnedStream(bool) : status_(NotBuilt()) {}
OwnedStream::~OwnedStream() = default;
Event::Event(bool) {}
Event::~Event() = default;
Event::Event(Event&&) noexcept {}
Event& Event::operator=(Event&&) noexcept { return *this; }
LaunchStatus Event::Record(Stream) { return {1, "no CUDA"}; }
LaunchStatus Event::MakeWait(Stream) const { return {1, "no CUDA"}; }
absl::StatusOr<bool> Event::Passed() const { return NotBuilt(); }
absl::Status Event::Wait() const { return NotBuilt(); }
double Event::SecondsBetween(const Event&, const Event&) { return 0; }

absl::Status Graph::Begin(Stream) { return NotBuilt(); }
absl::StatusOr<Graph> Graph::End(Stream) { return NotBuilt(); }
Graph::~Graph() = default;
Graph::Graph(Graph&&) noexcept {}
LaunchStatus Graph::Launch(Stream) const { return {1, "no CUDA"}; }

}  // namespace carry::cuda
