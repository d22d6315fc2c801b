#include "kernels/cuda/runtime.h"

#include <cuda_runtime_api.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"

namespace carry::cuda {
namespace {

// The first of those in CMakeLists.txt; PTX of the first and the last serves
// GPUs between and beyond.
constexpr int kLeastArchitecture = 80;

const char* Advice(int error) {
  switch (error) {
    case cudaErrorInsufficientDriver:
      return "; the NVIDIA driver is missing or older than this program's CUDA "
             "runtime: install a newer driver, or set device: CPU";
    case cudaErrorNoDevice:
      return "; check nvidia-smi and CUDA_VISIBLE_DEVICES, or set device: CPU";
    case cudaErrorNoKernelImageForDevice:
      return "; this program has no code for the GPU's architecture: choose "
             "another GPU with CUDA_VISIBLE_DEVICES, or set device: CPU";
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorJitCompilerNotFound:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
      return "; the NVIDIA driver does not fit this program's CUDA runtime: "
             "install a newer one whole, or set device: CPU";
    case cudaErrorSystemNotReady:
      return "; the driver's services do not run: start nvidia-fabricmanager, "
             "where GPUs are joined by NVSwitch, or set device: CPU";
    case cudaErrorMemoryAllocation:
      return "; lower training.chunk_length, training.micro_batch_size or "
             "training.tape_memory_budget";
    case cudaErrorDevicesUnavailable:
      return "; another program holds the GPU in exclusive mode";
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
      return "; the GPU is faulty: take the machine out and resume elsewhere";
    default:
      return "";
  }
}

bool NoDevice(int error) {
  return error == cudaErrorInsufficientDriver || error == cudaErrorNoDevice ||
         error == cudaErrorDevicesUnavailable ||
         error == cudaErrorSystemNotReady ||
         error == cudaErrorSystemDriverMismatch ||
         error == cudaErrorCompatNotSupportedOnDevice;
}

LaunchStatus Status(cudaError_t error, const char* what) {
  return {static_cast<int>(error), error == cudaSuccess ? nullptr : what};
}

}  // namespace

absl::Status ToStatus(int cuda_error, const char* what) {
  if (cuda_error == cudaSuccess) return absl::OkStatus();
  const auto error = static_cast<cudaError_t>(cuda_error);
  const std::string text = absl::StrCat(
      what == nullptr ? "CUDA" : what, ": ", cudaGetErrorName(error), ", ",
      cudaGetErrorString(error), Advice(error));
  if (NoDevice(error)) return absl::UnavailableError(text);
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(text);
  }
  return absl::InternalError(text);
}

bool Built() { return true; }

absl::StatusOr<int> CountDevices() {
  // Before CUDA starts: streams beyond the device's queues share one, and work
  // of one would wait for another's. There are six of NCCL's and the backend's.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", /*overwrite=*/0);
  int count = 0;  // Not written on error.
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) return ToStatus(error, "looking for GPUs");
  if (count == 0) return ToStatus(cudaErrorNoDevice, "looking for GPUs");
  return count;
}

absl::StatusOr<DeviceProperties> UseDevice(int index) {
  const std::string what = absl::StrCat("opening GPU ", index);
  absl::Status status = ToStatus(cudaSetDevice(index), what.c_str());
  if (!status.ok()) return status;
  cudaDeviceProp found;
  status = ToStatus(cudaGetDeviceProperties(&found, index), what.c_str());
  if (!status.ok()) return status;
  DeviceProperties device;
  device.index = index;
  device.name = found.name;
  char bus[32] = "";
  status =
      ToStatus(cudaDeviceGetPCIBusId(bus, sizeof(bus), index), what.c_str());
  if (!status.ok()) return status;
  device.bus = bus;
  device.architecture = 10 * found.major + found.minor;
  device.multiprocessors = found.multiProcessorCount;
  device.memory = static_cast<int64_t>(found.totalGlobalMem);
  if (device.architecture < kLeastArchitecture) {
    return absl::FailedPreconditionError(absl::StrCat(
        "GPU ", index, " (", device.name, ") is of architecture sm_",
        device.architecture, "; this program was compiled for sm_",
        kLeastArchitecture,
        " and later. Choose another GPU with CUDA_VISIBLE_DEVICES or set "
        "device: CPU"));
  }
  return device;
}

void* MallocDevice(int64_t bytes) {
  void* block = nullptr;
  if (cudaMalloc(&block, static_cast<size_t>(bytes)) == cudaSuccess) {
    return block;
  }
  cudaGetLastError();  // An allocation that fails is no error of later calls.
  return nullptr;
}

void FreeDevice(void* block) { cudaFree(block); }

void* MallocPinned(int64_t bytes) {
  void* block = nullptr;
  if (cudaMallocHost(&block, static_cast<size_t>(bytes)) == cudaSuccess) {
    return block;
  }
  cudaGetLastError();
  return nullptr;
}

void FreePinned(void* block) { cudaFreeHost(block); }

int64_t FreeDeviceMemory() {
  size_t free = 0, total = 0;
  if (cudaMemGetInfo(&free, &total) != cudaSuccess) return 0;
  return static_cast<int64_t>(free);
}

LaunchStatus CopyAsync(void* to, int64_t to_pitch, const void* from,
                       int64_t from_pitch, int64_t row_bytes, int64_t rows,
                       Stream stream) {
  if (row_bytes == 0 || rows == 0) return {};
  if (rows == 1 || (to_pitch == row_bytes && from_pitch == row_bytes)) {
    return Status(
        cudaMemcpyAsync(to, from, row_bytes * rows, cudaMemcpyDefault, stream),
        "copy");
  }
  return Status(cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes,
                                  rows, cudaMemcpyDefault, stream),
                "copy");
}

LaunchStatus ZeroAsync(void* to, int64_t pitch, int64_t row_bytes, int64_t rows,
                       Stream stream) {
  if (row_bytes == 0 || rows == 0) return {};
  if (rows == 1 || pitch == row_bytes) {
    return Status(cudaMemsetAsync(to, 0, row_bytes * rows, stream), "zero");
  }
  return Status(cudaMemset2DAsync(to, pitch, 0, row_bytes, rows, stream),
                "zero");
}

absl::Status Synchronize(Stream stream, const char* what) {
  return ToStatus(cudaStreamSynchronize(stream), what);
}

OwnedStream::OwnedStream(bool urgent) {
  int least = 0, greatest = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&least, &greatest);
  if (error == cudaSuccess) {
    error = cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking,
                                         urgent ? greatest : least);
  }
  status_ = ToStatus(error, "making a stream");
}

OwnedStream::~OwnedStream() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

Event::Event(bool timed) {
  if (cudaEventCreateWithFlags(
          &event_, timed ? cudaEventDefault : cudaEventDisableTiming) !=
      cudaSuccess) {
    event_ = nullptr;  // Record says so.
  }
}

Event::~Event() {
  if (event_ != nullptr) cudaEventDestroy(event_);
}

Event::Event(Event&& other) noexcept : event_(other.event_) {
  other.event_ = nullptr;
}

Event& Event::operator=(Event&& other) noexcept {
  std::swap(event_, other.event_);
  return *this;
}

LaunchStatus Event::Record(Stream stream) {
  return Status(event_ == nullptr ? cudaErrorInvalidResourceHandle
                                  : cudaEventRecord(event_, stream),
                "recording an event");
}

LaunchStatus Event::MakeWait(Stream stream) const {
  return Status(cudaStreamWaitEvent(stream, event_, 0), "waiting for an event");
}

absl::StatusOr<bool> Event::Passed() const {
  const cudaError_t error = cudaEventQuery(event_);
  if (error == cudaErrorNotReady) return false;
  absl::Status status = ToStatus(error, "the device's work");
  if (!status.ok()) return status;
  return true;
}

absl::Status Event::Wait() const {
  return ToStatus(cudaEventSynchronize(event_), "the device's work");
}

double Event::SecondsBetween(const Event& begin, const Event& end) {
  float milliseconds = 0;
  if (cudaEventElapsedTime(&milliseconds, begin.event_, end.event_) !=
      cudaSuccess) {
    return 0;
  }
  return milliseconds * 1e-3;
}

absl::Status Graph::Begin(Stream stream) {
  // Memory may be taken meanwhile: it is not part of the graph.
  return ToStatus(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed),
                  "recording work");
}

absl::StatusOr<Graph> Graph::End(Stream stream) {
  cudaGraph_t recorded = nullptr;
  absl::Status status =
      ToStatus(cudaStreamEndCapture(stream, &recorded), "recording work");
  if (!status.ok()) return status;
  Graph graph;
  status = ToStatus(cudaGraphInstantiate(&graph.graph_, recorded, 0),
                    "preparing recorded work");
  cudaGraphDestroy(recorded);
  if (!status.ok()) return status;
  return graph;
}

Graph::~Graph() {
  if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
}

Graph::Graph(Graph&& other) noexcept : graph_(other.graph_) {
  other.graph_ = nullptr;
}

LaunchStatus Graph::Launch(Stream stream) const {
  return Status(cudaGraphLaunch(graph_, stream), "starting recorded work");
}

}  // namespace carry::cuda
