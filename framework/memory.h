// Memory for tensors, of the host and of the GPU: cached blocks, counted by
// part.
//
// Freed blocks stay in the cache and serve the next request of the same size
// class, so a training step allocates from the system only while it is the
// largest so far. A GPU's block may still be in use by work that is queued; who
// gets it next uses it in the same stream, after that work.
//
// On the host, blocks of 1 MiB and more are advised to use huge pages, and
// their starts are staggered: rows of equal length in two arrays would
// otherwise fall on the same cache sets.
//
// Thread safety: all functions may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "framework/device.h"

namespace carry {

enum class MemoryPart : uint8_t {
  kParameters,  // weights, and their packed or bf16 copies
  kGradients,
  kOptimizer,
  kActivations,  // tapes and everything that lives for one op
  kCarries,      // carries at chunk edges and their gradients
  kData,         // tokens
  kCount
};
const char* Name(MemoryPart part);

struct MemoryUse {
  int64_t bytes = 0;  // now
  int64_t peak = 0;   // since the last ResetPeaks
};
MemoryUse GetMemoryUse(MemoryPart part, Device device = DefaultDevice());
// Everything handed out, whatever the part.
MemoryUse GetTotalMemoryUse(Device device = DefaultDevice());
// Starts new peaks at what is in use now, on every device.
void ResetMemoryPeaks();
// Gives cached blocks back to the system, on every device.
void TrimMemoryCache();
// Limits the host's cache: freed blocks beyond `bytes` go back to the system.
void SetMemoryCacheLimit(int64_t bytes);

// Bytes that a kernel or a library keeps, counted with a part for the life of
// this.
class MemoryClaim {
 public:
  MemoryClaim() = default;
  MemoryClaim(int64_t bytes, MemoryPart part, Device device);
  ~MemoryClaim();
  MemoryClaim(MemoryClaim&& other) noexcept;
  MemoryClaim& operator=(MemoryClaim&& other) noexcept;

 private:
  int64_t bytes_ = 0;
  MemoryPart part_ = MemoryPart::kParameters;
  Device device_ = Device::kCpu;
};

// While it is open, blocks of the device that are given back stay taken, for
// work that is recorded to use again; until it is destroyed. One at a time.
class MemoryHold {
 public:
  explicit MemoryHold(Device device);
  ~MemoryHold();
  MemoryHold(const MemoryHold&) = delete;
  MemoryHold& operator=(const MemoryHold&) = delete;
  void Close();

 private:
  Device device_;
  bool open_ = true;
  std::vector<std::shared_ptr<void>> blocks_;
};

// This process's peak resident size so far.
int64_t PeakResidentBytes();
// Bytes of the default device's memory that this process may still take: of the
// host's, its share where `ranks` processes of a run are on this machine; GPUs
// are not shared.
int64_t AvailableMemory(int ranks);

// "1.50 GiB"
std::string FormatBytes(int64_t bytes);

// A block of at least `bytes`, 64-byte aligned, uninitialised. Where there is
// none left, ends the process with what is in use by which part and what to
// lower.
std::shared_ptr<void> AllocateMemory(int64_t bytes, MemoryPart part,
                                     Device device);

}  // namespace carry
