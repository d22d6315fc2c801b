#include "parallel/nccl_library.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace carry {
namespace {

// maxCTAs, and calls that do not block the host: both are used.
constexpr int kLeastVersion = NCCL_VERSION(2, 18, 0);

constexpr char kAdvice[] =
    "; install NCCL 2.18 or later (libnccl2, for the CUDA of this machine's "
    "driver) on every machine, or set device: CPU";

std::string VersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".",
                      version % 100);
}

absl::StatusOr<std::unique_ptr<NcclLibrary>> Load(const std::string& name) {
  // NCCL reads its environment when it starts.
  setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return absl::UnavailableError(
        absl::StrCat("ranks on GPUs need NCCL: ", dlerror(), kAdvice));
  }
  auto nccl = std::make_unique<NcclLibrary>();
  std::string missing;
  const auto find = [&](auto& function, const char* symbol) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(
        dlsym(handle, symbol));
    if (function == nullptr && missing.empty()) missing = symbol;
  };
  find(nccl->GetVersion, "ncclGetVersion");
  find(nccl->GetErrorString, "ncclGetErrorString");
  find(nccl->GetLastError, "ncclGetLastError");
  find(nccl->GetUniqueId, "ncclGetUniqueId");
  find(nccl->CommInitRankConfig, "ncclCommInitRankConfig");
  find(nccl->CommGetAsyncError, "ncclCommGetAsyncError");
  find(nccl->CommFinalize, "ncclCommFinalize");
  find(nccl->CommDestroy, "ncclCommDestroy");
  find(nccl->CommAbort, "ncclCommAbort");
  find(nccl->GroupStart, "ncclGroupStart");
  find(nccl->GroupEnd, "ncclGroupEnd");
  find(nccl->Send, "ncclSend");
  find(nccl->Recv, "ncclRecv");
  find(nccl->Broadcast, "ncclBroadcast");
  find(nccl->AllGather, "ncclAllGather");
  find(nccl->AllReduce, "ncclAllReduce");
  find(nccl->Reduce, "ncclReduce");
  find(nccl->ReduceScatter, "ncclReduceScatter");
  int version = 0;
  if (nccl->GetVersion != nullptr) nccl->GetVersion(&version);
  if (!missing.empty() || version < kLeastVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        name, " is NCCL ", VersionText(version), ", which is too old",
        missing.empty() ? "" : absl::StrCat(" (it has no ", missing, ")"),
        kAdvice));
  }
  return nccl;
}

}  // namespace

std::string NcclLibrary::Explain(ncclResult_t result) const {
  const char* last = GetLastError(nullptr);
  std::string text = GetErrorString(result);
  if (last != nullptr && last[0] != '\0')
    absl::StrAppend(&text, " (", last, ")");
  if (result == ncclInvalidUsage) {
    absl::StrAppend(&text,
                    "; each rank of a machine needs a GPU of its own: start no "
                    "more ranks a machine than it has GPUs");
  } else {
    absl::StrAppend(&text, "; NCCL_DEBUG=WARN in the environment says more");
  }
  return text;
}

absl::StatusOr<const NcclLibrary*> LoadNccl(const std::string& name) {
  static std::mutex* mutex = new std::mutex;
  static auto* loaded = new std::map<std::string, std::unique_ptr<NcclLibrary>>;
  const std::lock_guard<std::mutex> lock(*mutex);
  std::unique_ptr<NcclLibrary>& library = (*loaded)[name];
  if (library == nullptr) {
    absl::StatusOr<std::unique_ptr<NcclLibrary>> now = Load(name);
    if (!now.ok()) return now.status();
    library = *std::move(now);
  }
  return library.get();
}

}  // namespace carry
