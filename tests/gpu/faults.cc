// Preloaded into the program (LD_PRELOAD), makes one function of the CUDA
// runtime, of cuBLAS or of NCCL go wrong in one rank:
//
//   CARRY_FAULT="RANK FUNCTION COUNT ACTION"
//
// From the COUNT-th call of FUNCTION on, ACTION is done in its place:
//
//   a number   the call fails with this code
//   kill stop  the process raises SIGKILL or SIGSTOP
//   damage     a byte of what ncclSend sends is changed, on the device; once
//   swap       the message before the COUNT-th is sent once more
//   else       cudaGetDeviceProperties: "sm_75" is the GPU's architecture,
//              another word its name; ncclGetVersion: the version
//
// Of ncclSend and the collectives only calls of more than a byte count: smaller
// ones connect ranks.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <nccl.h>

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

namespace {

struct Fault {
  bool here = false;  // in this rank
  std::string function, action;
  long count = 0;
  long calls = 0;
};

Fault& TheFault() {
  static Fault* const fault = [] {
    auto* made = new Fault;
    const char* text = std::getenv("CARRY_FAULT");
    const char* me = std::getenv("OMPI_COMM_WORLD_RANK");
    int rank = -1;
    std::istringstream in(text == nullptr ? "" : text);
    if (in >> rank >> made->function >> made->count >> made->action) {
      made->here = rank == (me == nullptr ? 0 : std::atoi(me));
    }
    return made;
  }();
  return *fault;
}

bool Is(const char* function) {
  return TheFault().here && TheFault().function == function;
}

// What the call of `function` that is made now returns; 0: what the real one
// does.
int Code(const char* function) {
  if (!Is(function) || ++TheFault().calls < TheFault().count) return 0;
  if (TheFault().action == "kill") raise(SIGKILL);
  if (TheFault().action == "stop") raise(SIGSTOP);
  return std::atoi(TheFault().action.c_str());
}

// Whether this very call is the one.
bool Now(const char* action) {
  return TheFault().calls == TheFault().count && TheFault().action == action;
}

using Dlsym = void* (*)(void*, const char*);

Dlsym RealDlsym() {
  static Dlsym real = nullptr;
  for (const char* version : {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"}) {
    if (real != nullptr) break;
    real = reinterpret_cast<Dlsym>(dlvsym(RTLD_NEXT, "dlsym", version));
  }
  return real;
}

template <class F>
F* Next(const char* name, F*) {
  return reinterpret_cast<F*>(RealDlsym()(RTLD_NEXT, name));
}

decltype(&ncclSend) real_send = nullptr;
decltype(&ncclAllReduce) real_all_reduce = nullptr;
decltype(&ncclReduceScatter) real_reduce_scatter = nullptr;

ncclResult_t Send(const void* data, size_t count, ncclDataType_t type, int peer,
                  ncclComm_t comm, cudaStream_t stream) {
  static const void* last = nullptr;
  if (count > 1) {
    const int code = Code("ncclSend");
    if (code != 0) return static_cast<ncclResult_t>(code);
    if (Is("ncclSend") && Now("damage")) {
      cudaMemsetAsync(static_cast<char*>(const_cast<void*>(data)) + 3, 0x5a, 1,
                      stream);
    }
    if (Is("ncclSend") && Now("swap")) data = last;
    last = data;
  }
  return real_send(data, count, type, peer, comm, stream);
}

ncclResult_t AllReduce(const void* from, void* to, size_t count,
                       ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                       cudaStream_t stream) {
  const int code = count > 1 ? Code("ncclAllReduce") : 0;
  if (code != 0) return static_cast<ncclResult_t>(code);
  return real_all_reduce(from, to, count, type, op, comm, stream);
}

ncclResult_t ReduceScatter(const void* from, void* to, size_t count,
                           ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  const int code = count > 1 ? Code("ncclReduceScatter") : 0;
  if (code != 0) return static_cast<ncclResult_t>(code);
  return real_reduce_scatter(from, to, count, type, op, comm, stream);
}

ncclResult_t Version(int* version) {
  *version = Code("ncclGetVersion");
  return ncclSuccess;
}

template <class Real, class F>
void* InPlaceOf(void* found, Real* real, F* ours) {
  *real = reinterpret_cast<Real>(found);
  return reinterpret_cast<void*>(ours);
}

cublasStatus_t (*real_gemm)(cublasHandle_t, cublasOperation_t,
                            cublasOperation_t, int, int, int, const void*,
                            const void*, cudaDataType, int, const void*,
                            cudaDataType, int, const void*, void*, cudaDataType,
                            int, cublasComputeType_t, cublasGemmAlgo_t);

cublasStatus_t Gemm(cublasHandle_t handle, cublasOperation_t ta,
                    cublasOperation_t tb, int m, int n, int k,
                    const void* alpha, const void* a, cudaDataType a_type,
                    int lda, const void* b, cudaDataType b_type, int ldb,
                    const void* beta, void* c, cudaDataType c_type, int ldc,
                    cublasComputeType_t compute, cublasGemmAlgo_t algorithm) {
  const int code = Code("cublasGemmEx");
  if (code != 0) return static_cast<cublasStatus_t>(code);
  return real_gemm(handle, ta, tb, m, n, k, alpha, a, a_type, lda, b, b_type,
                   ldb, beta, c, c_type, ldc, compute, algorithm);
}

}  // namespace

extern "C" {

// What cuBLAS and NCCL are asked by name.
void* dlsym(void* library, const char* name) noexcept {
  void* found = RealDlsym()(library, name);
  if (found == nullptr || !Is(name)) return found;
  const std::string function = name;
  if (function == "ncclGetVersion") return reinterpret_cast<void*>(&Version);
  if (function == "ncclSend") return InPlaceOf(found, &real_send, &Send);
  if (function == "ncclAllReduce") {
    return InPlaceOf(found, &real_all_reduce, &AllReduce);
  }
  if (function == "ncclReduceScatter") {
    return InPlaceOf(found, &real_reduce_scatter, &ReduceScatter);
  }
  if (function == "cublasGemmEx") return InPlaceOf(found, &real_gemm, &Gemm);
  return found;
}

cudaError_t cudaGetDeviceCount(int* count) {
  const int code = Code("cudaGetDeviceCount");
  if (code != 0) return static_cast<cudaError_t>(code);
  return Next("cudaGetDeviceCount", &cudaGetDeviceCount)(count);
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  const cudaError_t error = Next("cudaGetDeviceProperties",
                                 &cudaGetDeviceProperties)(properties, device);
  if (error != cudaSuccess || !Is("cudaGetDeviceProperties")) return error;
  const std::string& action = TheFault().action;
  if (action.rfind("sm_", 0) == 0) {
    const int architecture = std::atoi(action.c_str() + 3);
    properties->major = architecture / 10;
    properties->minor = architecture % 10;
  } else {
    std::strncpy(properties->name, action.c_str(),
                 sizeof(properties->name) - 1);
  }
  return error;
}

cudaError_t cudaMalloc(void** block, size_t bytes) {
  const int code = Code("cudaMalloc");
  if (code != 0) return static_cast<cudaError_t>(code);
  return Next("cudaMalloc", static_cast<cudaError_t (*)(void**, size_t)>(
                                &cudaMalloc))(block, bytes);
}

cudaError_t cudaMallocHost(void** block, size_t bytes) {
  const int code = Code("cudaMallocHost");
  if (code != 0) return static_cast<cudaError_t>(code);
  return Next("cudaMallocHost", static_cast<cudaError_t (*)(void**, size_t)>(
                                    &cudaMallocHost))(block, bytes);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const int code = Code("cudaStreamSynchronize");
  if (code != 0) return static_cast<cudaError_t>(code);
  return Next("cudaStreamSynchronize", &cudaStreamSynchronize)(stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config,
                                const void* kernel, void** args) {
  const int code = Code("cudaLaunchKernelExC");
  if (code != 0) return static_cast<cudaError_t>(code);
  return Next("cudaLaunchKernelExC", &cudaLaunchKernelExC)(config, kernel,
                                                           args);
}

}  // extern "C"
