#include "framework/memory.h"

#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <limits>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/check.h"

namespace carry {
namespace {

constexpr int kParts = static_cast<int>(MemoryPart::kCount);
// 16 staggered starts, 5 cache lines apart: rows then miss each other's sets.
constexpr int64_t kStaggerFrom = int64_t{1} << 20;
constexpr int64_t kStagger = 320;
constexpr int64_t kStaggers = 16;

struct Block {
  void* base = nullptr;  // what the system gave
  void* data = nullptr;  // what the caller sees
  int64_t size = 0;      // size class, without the stagger
};

// Multiples of 64 B up to 4 KiB, then 1/8 steps between powers of two.
int64_t SizeClass(int64_t bytes) {
  bytes = std::max<int64_t>(bytes, 64);
  int64_t step = 64;
  while (step * 16 <= bytes) step *= 2;
  return (bytes + step - 1) / step * step;
}

// Blocks of one device.
class Pool {
 public:
  static Pool& Get(Device device) {
    // Outlive every static tensor.
    static Pool* pools[kDevices] = {new Pool(Device::kCpu),
                                    new Pool(Device::kCuda)};
    return *pools[static_cast<int>(device)];
  }
  explicit Pool(Device device) : device_(device) {}

  Block Take(int64_t bytes, MemoryPart part) {
    const int64_t size = SizeClass(bytes);
    std::lock_guard<std::mutex> lock(mutex_);
    Block block;
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      cached_ -= size;
    } else {
      block = FromSystem(size, part);
    }
    Count(part, size);
    return block;
  }

  void Give(const Block& block, MemoryPart part) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (holding_) {
      held_.emplace_back(block, part);
      return;
    }
    Count(part, -block.size);
    if (cached_ + block.size > limit_) {
      Release(block);
      return;
    }
    cached_ += block.size;
    free_[block.size].push_back(block);
  }

  // From now on nothing comes back; then what would have.
  void BeginHold() {
    std::lock_guard<std::mutex> lock(mutex_);
    CARRY_CHECK(!holding_);
    holding_ = true;
  }
  std::vector<std::pair<Block, MemoryPart>> EndHold() {
    std::lock_guard<std::mutex> lock(mutex_);
    holding_ = false;
    return std::exchange(held_, {});
  }

  // Memory from elsewhere.
  void Claim(MemoryPart part, int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    Count(part, bytes);
  }

  void Trim() {
    std::lock_guard<std::mutex> lock(mutex_);
    TrimLocked();
  }

  void SetLimit(int64_t bytes) {
    std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
    if (cached_ > limit_) TrimLocked();
  }

  MemoryUse Use(int index) {
    std::lock_guard<std::mutex> lock(mutex_);
    return use_[index];
  }

  void ResetPeaks() {
    std::lock_guard<std::mutex> lock(mutex_);
    for (MemoryUse& use : use_) use.peak = use.bytes;
  }

 private:
  void Count(MemoryPart part, int64_t bytes) {
    for (int i : {static_cast<int>(part), kParts}) {
      use_[i].bytes += bytes;
      use_[i].peak = std::max(use_[i].peak, use_[i].bytes);
    }
  }

  Block FromSystem(int64_t size, MemoryPart part) {
    Block block = TryFromSystem(size);
    if (block.base == nullptr) {
      TrimLocked();
      block = TryFromSystem(size);
    }
    if (block.base == nullptr) FailForWantOfMemory(size, part);
    return block;
  }

  Block TryFromSystem(int64_t size) {
    int64_t stagger = 0;
    if (device_ == Device::kCpu && size >= kStaggerFrom) {
      stagger = kStagger * (next_++ % kStaggers) / 64 * 64;
    }
    void* base = BackendOf(device_).Allocate(size + stagger);
    if (base == nullptr) return {};
    return {base, static_cast<char*>(base) + stagger, size};
  }

  [[noreturn]] void FailForWantOfMemory(int64_t size, MemoryPart part) {
    std::string parts;
    for (int i = 0; i < kParts; ++i) {
      if (use_[i].bytes == 0) continue;
      parts += parts.empty() ? "" : ", ";
      parts += std::string(Name(static_cast<MemoryPart>(i))) + " " +
               FormatBytes(use_[i].bytes);
    }
    std::string free;
    if (device_ != Device::kCpu) {
      free = ", " + FormatBytes(BackendOf(device_).AvailableMemory()) +
             " free on the GPU";
    }
    std::fprintf(
        stderr,
        "carry: error: out of memory%s: %s asked for by %s%s, %s in use "
        "(%s); lower training.chunk_length, "
        "training.micro_batch_size or training.tape_memory_budget\n",
        device_ == Device::kCpu ? "" : " on the GPU", FormatBytes(size).c_str(),
        Name(part), free.c_str(), FormatBytes(use_[kParts].bytes).c_str(),
        parts.c_str());
    std::fflush(nullptr);
    std::_Exit(1);  // Destructors would wait for other ranks and the device.
  }

  void Release(const Block& block) { BackendOf(device_).Free(block.base); }

  void TrimLocked() {
    for (auto& [size, blocks] : free_) {
      for (const Block& block : blocks) Release(block);
      blocks.clear();
    }
    cached_ = 0;
  }

  const Device device_;
  std::mutex mutex_;
  std::map<int64_t, std::vector<Block>> free_;
  std::array<MemoryUse, kParts + 1> use_;
  bool holding_ = false;
  std::vector<std::pair<Block, MemoryPart>> held_;
  int64_t cached_ = 0;
  int64_t limit_ = std::numeric_limits<int64_t>::max();
  int64_t next_ = 0;
};

}  // namespace

const char* Name(MemoryPart part) {
  switch (part) {
    case MemoryPart::kParameters:
      return "parameters";
    case MemoryPart::kGradients:
      return "gradients";
    case MemoryPart::kOptimizer:
      return "optimizer";
    case MemoryPart::kActivations:
      return "activations";
    case MemoryPart::kCarries:
      return "carries";
    case MemoryPart::kData:
      return "data";
    case MemoryPart::kCount:
      break;
  }
  return "?";
}

MemoryClaim::MemoryClaim(int64_t bytes, MemoryPart part, Device device)
    : bytes_(bytes), part_(part), device_(device) {
  Pool::Get(device).Claim(part, bytes);
}

MemoryClaim::~MemoryClaim() {
  if (bytes_ != 0) Pool::Get(device_).Claim(part_, -bytes_);
}

MemoryClaim::MemoryClaim(MemoryClaim&& other) noexcept {
  *this = std::move(other);
}

MemoryClaim& MemoryClaim::operator=(MemoryClaim&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(part_, other.part_);
  std::swap(device_, other.device_);
  return *this;
}

MemoryUse GetMemoryUse(MemoryPart part, Device device) {
  return Pool::Get(device).Use(static_cast<int>(part));
}
MemoryUse GetTotalMemoryUse(Device device) {
  return Pool::Get(device).Use(kParts);
}
void ResetMemoryPeaks() {
  for (Device device : {Device::kCpu, Device::kCuda}) {
    Pool::Get(device).ResetPeaks();
  }
}
void TrimMemoryCache() {
  for (Device device : {Device::kCpu, Device::kCuda}) Pool::Get(device).Trim();
}
void SetMemoryCacheLimit(int64_t bytes) {
  Pool::Get(Device::kCpu).SetLimit(bytes);
}

int64_t AvailableMemory(int ranks) {
  const Device device = DefaultDevice();
  const int64_t all = BackendOf(device).AvailableMemory();
  return device == Device::kCpu ? all / ranks : all;
}

MemoryHold::MemoryHold(Device device) : device_(device) {
  Pool::Get(device).BeginHold();
}

void MemoryHold::Close() {
  if (!std::exchange(open_, false)) return;
  for (const auto& held : Pool::Get(device_).EndHold()) {
    blocks_.push_back(
        std::shared_ptr<void>(held.first.data, [held, device = device_](void*) {
          Pool::Get(device).Give(held.first, held.second);
        }));
  }
}

MemoryHold::~MemoryHold() { Close(); }

int64_t PeakResidentBytes() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<int64_t>(usage.ru_maxrss) * 1024;
}

std::string FormatBytes(int64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 6) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof(text), unit == 0 ? "%.0f %s" : "%.2f %s", value,
                units[unit]);
  return text;
}

std::shared_ptr<void> AllocateMemory(int64_t bytes, MemoryPart part,
                                     Device device) {
  CARRY_CHECK(bytes >= 0);
  const Block block = Pool::Get(device).Take(bytes, part);
  return std::shared_ptr<void>(block.data, [block, part, device](void*) {
    Pool::Get(device).Give(block, part);
  });
}

}  // namespace carry
