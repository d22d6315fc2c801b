// NCCL's functions. The library is loaded when ranks on GPUs first need it, so
// that a program runs where it is not installed. Only built where nccl.h is.
//
// Thread safety: LoadNccl may be called by any thread. What it returns lives
// as long as the process.
#pragma once

#include <nccl.h>

#include <string>

#include "absl/status/statusor.h"

namespace carry {

struct NcclLibrary {
  decltype(&::ncclGetVersion) GetVersion;
  decltype(&::ncclGetErrorString) GetErrorString;
  decltype(&::ncclGetLastError) GetLastError;
  decltype(&::ncclGetUniqueId) GetUniqueId;
  decltype(&::ncclCommInitRankConfig) CommInitRankConfig;
  decltype(&::ncclCommGetAsyncError) CommGetAsyncError;
  decltype(&::ncclCommFinalize) CommFinalize;
  decltype(&::ncclCommDestroy) CommDestroy;
  decltype(&::ncclCommAbort) CommAbort;
  decltype(&::ncclGroupStart) GroupStart;
  decltype(&::ncclGroupEnd) GroupEnd;
  decltype(&::ncclSend) Send;
  decltype(&::ncclRecv) Recv;
  decltype(&::ncclBroadcast) Broadcast;
  decltype(&::ncclAllGather) AllGather;
  decltype(&::ncclAllReduce) AllReduce;
  decltype(&::ncclReduce) Reduce;
  decltype(&::ncclReduceScatter) ReduceScatter;

  // "unhandled system error (...)", with what to do where that is known.
  std::string Explain(ncclResult_t result) const;
};

// `name`: what dlopen takes, "libnccl.so.2". The error says what to install or
// to set: kUnavailable if the library is not there, kFailedPrecondition if it
// is too old. Switches NVLink SHARP off (NCCL_NVLS_ENABLE=0) unless the
// environment says otherwise: sums made in the switch have no fixed order.
absl::StatusOr<const NcclLibrary*> LoadNccl(const std::string& name);

}  // namespace carry
