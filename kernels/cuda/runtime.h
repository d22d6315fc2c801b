// The CUDA runtime behind small types; needs no CUDA header.
//
// Without nvcc, runtime_stub.cc takes the place of runtime.cc: there is then no
// device, and the error names the build option. Thread safety: a thread calls
// UseDevice before anything else here; objects are used by one thread at a
// time.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch_status.h"

struct CUevent_st;
struct CUgraphExec_st;

namespace carry::cuda {

struct DeviceProperties {
  int index = 0;
  std::string name;      // "NVIDIA H100 80GB HBM3"
  std::string bus;       // "0000:1b:00.0": each GPU of a machine has its own
  int architecture = 0;  // 90: compute capability 9.0
  int multiprocessors = 0;
  int64_t memory = 0;  // bytes
};

// Whether this program was compiled with CUDA.
bool Built();

// GPUs that the driver shows. The error says why there is none: this build,
// no driver, a driver that is too old.
absl::StatusOr<int> CountDevices();
// Makes GPU `index` this thread's. kFailedPrecondition for an architecture that
// this program was not compiled for.
absl::StatusOr<DeviceProperties> UseDevice(int index);

// OK for 0; otherwise what was done ("scan forward"), CUDA's name and text for
// the error, and what to do where that is known.
absl::Status ToStatus(int cuda_error, const char* what);
inline absl::Status ToStatus(const LaunchStatus& status) {
  return ToStatus(status.error, status.kernel);
}

// Device memory, and host memory that the device reaches by itself; nullptr if
// there is none left.
void* MallocDevice(int64_t bytes);
void FreeDevice(void* block);
void* MallocPinned(int64_t bytes);
void FreePinned(void* block);
int64_t FreeDeviceMemory();  // bytes

// Copies between any two places, `rows` rows of `row_bytes`; pitches in bytes.
// Host memory that is not pinned is copied before the call returns.
LaunchStatus CopyAsync(void* to, int64_t to_pitch, const void* from,
                       int64_t from_pitch, int64_t row_bytes, int64_t rows,
                       Stream stream);
LaunchStatus ZeroAsync(void* to, int64_t pitch, int64_t row_bytes, int64_t rows,
                       Stream stream);
// Waits until all that was put into the stream is done.
absl::Status Synchronize(Stream stream, const char* what);

// A stream of its own, not ordered with others but by events. `urgent` ones go
// first where the device has to choose.
class OwnedStream {
 public:
  explicit OwnedStream(bool urgent = false);
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  // OK if the stream could be made.
  const absl::Status& status() const { return status_; }
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
  absl::Status status_;
};

// A point in a stream. `timed` ones can be compared.
class Event {
 public:
  explicit Event(bool timed = false);
  ~Event();
  Event(Event&& other) noexcept;
  Event& operator=(Event&& other) noexcept;

  // The point after all that was put into `stream` so far.
  LaunchStatus Record(Stream stream);
  // What comes into `stream` from now on waits for the point.
  LaunchStatus MakeWait(Stream stream) const;
  // Whether the device has passed the point; an error is one of any work
  // before it.
  absl::StatusOr<bool> Passed() const;
  absl::Status Wait() const;
  // Of two points that were passed.
  static double SecondsBetween(const Event& begin, const Event& end);

 private:
  CUevent_st* event_ = nullptr;
};

// Work of a stream that was recorded instead of run: a CUDA graph.
class Graph {
 public:
  // What is put into `stream` until End is recorded.
  static absl::Status Begin(Stream stream);
  static absl::StatusOr<Graph> End(Stream stream);
  ~Graph();
  Graph(Graph&& other) noexcept;
  Graph& operator=(Graph&&) = delete;
  LaunchStatus Launch(Stream stream) const;

 private:
  Graph() = default;
  CUgraphExec_st* graph_ = nullptr;
};

}  // namespace carry::cuda
