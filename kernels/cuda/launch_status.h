// What the CUDA kernels' entry points take and return; needs no CUDA header.
#pragma once

struct CUstream_st;

namespace carry::cuda {

using Stream = CUstream_st*;  // cudaStream_t

// Whether all launches of a call were accepted. That kernels ran to their end
// is known only after a synchronise.
struct [[nodiscard]] LaunchStatus {
  int error = 0;                 // cudaError_t
  const char* kernel = nullptr;  // that was refused

  bool ok() const { return error == 0; }
};

}  // namespace carry::cuda
