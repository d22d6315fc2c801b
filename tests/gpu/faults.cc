// Preloaded into the program (LD_PRELOAD), makes one function of the CUDA
// runtime, of cuBLAS, NCCL or MPI go wrong in one rank:
//
//   CARRY_FAULT="RANK FUNCTION COUNT ACTION [AFTER]"
//
// From the COUNT-th call of FUNCTION on, since there was a file AFTER, ACTION
// is done in its place:
//
//   a number   the call fails with this code
//   kill stop  the process raises SIGKILL or SIGSTOP
//   damage     a byte of what is sent is changed on the device; once
//   swap       the message before the COUNT-th is sent once more
//   count      nothing is; how often FUNCTION was called is told at the end
//   else       cudaGetDeviceProperties: "sm_75" is the GPU's architecture,
//              another word its name; ncclGetVersion: the version
//
// Of ncclSend and the collectives only calls of more than a byte count: smaller
// ones connect ranks. Of MPI_Isend only those of more than 64: smaller ones
// tell numbers.
#include <cublas_v2.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <mpi.h>
#include <nccl.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

namespace {

struct Fault {
  bool here = false;  // in this rank
  std::string function, action, after;
  long count = 0;
  long calls = 0;

  ~Fault() {
    if (action == "count") std::fprintf(stderr, "%ld calls\n", calls);
  }
};

Fault& TheFault() {
  static Fault fault = [] {
    Fault made;
    const char* text = std::getenv("CARRY_FAULT");
    const char* me = std::getenv("OMPI_COMM_WORLD_RANK");
    int rank = -1;
    std::istringstream in(text == nullptr ? "" : text);
    if (in >> rank >> made.function >> made.count >> made.action) {
      in >> made.after;
      made.here = rank == (me == nullptr ? 0 : std::atoi(me));
    }
    return made;
  }();
  return fault;
}

bool Is(const char* function) {
  return TheFault().here && TheFault().function == function;
}

// What the call of `function` that is made now returns; 0: what the real one
// does.
int Code(const char* function) {
  Fault& fault = TheFault();
  if (!Is(function)) return 0;
  if (fault.calls == 0 && !fault.after.empty() &&
      access(fault.after.c_str(), F_OK) != 0) {
    return 0;
  }
  if (++fault.calls < fault.count) return 0;
  if (fault.action == "kill") raise(SIGKILL);
  if (fault.action == "stop") raise(SIGSTOP);
  return std::atoi(fault.action.c_str());
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
decltype(&ncclReduceScatter) real_reduce_scatter = nullptr;
decltype(&ncclAllGather) real_all_gather = nullptr;

// Where `damage` is due: what is sent, on the device.
void Harm(const void* data, cudaStream_t stream) {
  if (!Now("damage")) return;
  cudaMemsetAsync(static_cast<char*>(const_cast<void*>(data)) + 3, 0x5a, 1,
                  stream);
}

ncclResult_t Send(const void* data, size_t count, ncclDataType_t type, int peer,
                  ncclComm_t comm, cudaStream_t stream) {
  static const void* last = nullptr;
  if (count > 1) {
    const int code = Code("ncclSend");
    if (code != 0) return static_cast<ncclResult_t>(code);
    if (Is("ncclSend")) Harm(data, stream);
    if (Is("ncclSend") && Now("swap")) data = last;
    last = data;
  }
  return real_send(data, count, type, peer, comm, stream);
}

ncclResult_t ReduceScatter(const void* from, void* to, size_t count,
                           ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream) {
  const int code = count > 1 ? Code("ncclReduceScatter") : 0;
  if (code != 0) return static_cast<ncclResult_t>(code);
  return real_reduce_scatter(from, to, count, type, op, comm, stream);
}

ncclResult_t AllGather(const void* from, void* to, size_t count,
                       ncclDataType_t type, ncclComm_t comm,
                       cudaStream_t stream) {
  const int code = count > 1 ? Code("ncclAllGather") : 0;
  if (code != 0) return static_cast<ncclResult_t>(code);
  if (count > 1 && Is("ncclAllGather")) Harm(from, stream);
  return real_all_gather(from, to, count, type, comm, stream);
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

decltype(&cublasCreate) real_create = nullptr;

cublasStatus_t Create(cublasHandle_t* handle) {
  const int code = Code("cublasCreate_v2");
  if (code != 0) return static_cast<cublasStatus_t>(code);
  return real_create(handle);
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
  if (function == "ncclReduceScatter") {
    return InPlaceOf(found, &real_reduce_scatter, &ReduceScatter);
  }
  if (function == "ncclAllGather") {
    return InPlaceOf(found, &real_all_gather, &AllGather);
  }
  if (function == "cublasCreate_v2") {
    return InPlaceOf(found, &real_create, &Create);
  }
  if (function == "cublasGemmEx") return InPlaceOf(found, &real_gemm, &Gemm);
  return found;
}

int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag,
              MPI_Comm comm, MPI_Request* request) {
  if (count > 64) {
    Code("MPI_Isend");
    if (Is("MPI_Isend") && Now("damage")) {
      static_cast<char*>(const_cast<void*>(data))[3] ^= 1;
    }
  }
  return Next("MPI_Isend", &MPI_Isend)(data, count, type, to, tag, comm,
                                       request);
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
