// Compiled without sanitizers' instrumentation: to ThreadSanitizer the engine
// is what orders the fibers, and its own data must not look like a race.
#include "tests/host_cuda/shim/engine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "tests/host_cuda/shim/context.h"

// HOST_CUDA_ASAN and HOST_CUDA_TSAN say what the rest of the program is built
// with.
#ifdef HOST_CUDA_ASAN
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef HOST_CUDA_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace host_cuda {

thread_local const ThreadIndices* current_thread = nullptr;

namespace {

constexpr unsigned kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr size_t kStackBytes = 256 << 10;
constexpr size_t kGuardBytes = 64 << 10;

enum class State { kReady, kAtBarrier, kInWarp, kDone };

struct Fiber {
  ThreadIndices indices;
  State state = State::kDone;
  const char* file = "";  // Where it waits.
  int line = 0;
  // Of a warp operation.
  WarpOp op = WarpOp::kBarrier;
  uint64_t value = 0, result = 0;
  int source = 0;

  Context context;
  char* stack = nullptr;
#ifdef HOST_CUDA_ASAN
  void* fake_stack = nullptr;
#endif
#ifdef HOST_CUDA_TSAN
  void* tsan = nullptr;
  unsigned block_waits = 0, warp_waits = 0;
#endif
};

class Engine {
 public:
  ~Engine() {
    for (auto& fiber : fibers_) {
#ifdef HOST_CUDA_TSAN
      __tsan_destroy_fiber(fiber->tsan);
#endif
      munmap(fiber->stack - kGuardBytes, kMapped);
    }
  }

  void SetOrder(Order order, uint64_t seed) {
    order_ = order;
    random_.seed(seed);
  }

  void RunGrid(Index3 grid, Index3 block, size_t shared_bytes,
               void (*body)(const void*), const void* arg) {
    if (running_) Fail("a kernel launches a kernel");
    running_ = true;
    body_ = body, arg_ = arg;
    threads_ = block.x * block.y * block.z;
    while (fibers_.size() < threads_) AddFiber();
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; ++i) {
      const uint64_t at = order_ == Order::kReverse ? blocks - 1 - i : i;
      const Index3 index = {static_cast<unsigned>(at % grid.x),
                            static_cast<unsigned>(at / grid.x % grid.y),
                            static_cast<unsigned>(at / grid.x / grid.y)};
      RunBlock(grid, block, index, shared_bytes);
    }
#ifdef HOST_CUDA_TSAN
    __tsan_acquire(end_);
#endif
    for (void* shared : old_shared_) std::free(shared);
    old_shared_.clear();
    running_ = false;
  }

  void* shared() { return shared_; }
  Fiber& current() { return *current_; }
  unsigned FlatCurrent() { return Flat(*current_); }

  // The current fiber waits in `state`.
  void Wait(State state, const char* file, int line) {
    current_->state = state;
    current_->file = file;
    current_->line = line;
    LeaveFiber();
  }

  // Lets ThreadSanitizer know what a wait orders: those who arrive release,
  // all acquire when they leave. Waits use two addresses in turn, so that who
  // is already at the next wait does not count as having been at this one.
  void WaitOrdered(State state, const char* file, int line) {
#ifdef HOST_CUDA_TSAN
    Fiber& f = *current_;
    const bool block = state == State::kAtBarrier;
    const unsigned slot = blocks_run_ % kSlots;
    char* addresses =
        block ? block_waits_[slot] : warp_waits_[slot][Flat(f) / kWarp];
    unsigned& count = block ? f.block_waits : f.warp_waits;
    void* address = addresses + 8 * (count++ % 2);
    __tsan_release(address);
    Wait(state, file, line);
    __tsan_acquire(address);
#else
    Wait(state, file, line);
#endif
  }

  [[noreturn]] __attribute__((format(printf, 2, 3))) void Fail(
      const char* format, ...) {
    va_list args;
    va_start(args, format);
    std::fputs("host_cuda: ", stderr);
    std::vfprintf(stderr, format, args);
    std::fputc('\n', stderr);
    va_end(args);
    std::abort();
  }

 private:
  static constexpr size_t kMapped = kStackBytes + kGuardBytes;

  static void Entry();

  void AddFiber() {
    // A guard page below the stack: too deep a stack is a fault, not a riddle.
    void* mapped = mmap(nullptr, kMapped, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) Fail("no memory for the stack of a thread");
    mprotect(mapped, kGuardBytes, PROT_NONE);
    auto fiber = std::make_unique<Fiber>();
    fiber->stack = static_cast<char*>(mapped) + kGuardBytes;
#ifdef HOST_CUDA_TSAN
    fiber->tsan = __tsan_create_fiber(1);
#endif
    MakeContext(&fiber->context, fiber->stack, kStackBytes, Entry);
    fibers_.push_back(std::move(fiber));
  }

  void RunBlock(Index3 grid, Index3 block, Index3 index, size_t shared_bytes) {
    // Exactly its size: the address sanitizer sees what lies beyond.
    shared_ = std::malloc(shared_bytes == 0 ? 1 : shared_bytes);
    std::memset(shared_, 0xff, shared_bytes);
    std::vector<unsigned> order(threads_);
    std::iota(order.begin(), order.end(), 0u);
    if (order_ == Order::kReverse) {
      std::reverse(order.begin(), order.end());
    }
    BeginBlock();
    for (unsigned i = 0; i < threads_; ++i) {
      Fiber& f = *fibers_[i];
      f.indices = {
          {i % block.x, i / block.x % block.y, i / (block.x * block.y)},
          index,
          block,
          grid};
      f.state = State::kReady;
    }
    for (bool live = true; live;) {
      if (order_ == Order::kRandom) {
        std::shuffle(order.begin(), order.end(), random_);
      }
      for (unsigned i : order) {
        if (fibers_[i]->state == State::kReady) EnterFiber(fibers_[i].get());
      }
      live = Resolve();
    }
    // Of what comes after a block the sanitizer knows only when a grid ends.
    old_shared_.push_back(shared_);
    shared_ = nullptr;
  }

  // Lets go on who can, once nobody runs; false when all are done.
  bool Resolve() {
    bool progress = false;
    unsigned done = 0, at_barrier = 0;
    for (unsigned warp = 0; warp < threads_; warp += kWarp) {
      progress |= ResolveWarp(warp);
    }
    if (progress) return true;
    for (unsigned i = 0; i < threads_; ++i) {
      done += fibers_[i]->state == State::kDone;
      at_barrier += fibers_[i]->state == State::kAtBarrier;
    }
    if (done == threads_) return false;
    const Fiber& first = FirstWaiting();
    if (at_barrier != threads_) Diagnose(first);
    for (unsigned i = 0; i < threads_; ++i) {
      Fiber& f = *fibers_[i];
      if (f.line != first.line || std::strcmp(f.file, first.file) != 0) {
        Fail("barrier divergence: %s waits at %s:%d, %s at %s:%d",
             Name(first).c_str(), first.file, first.line, Name(f).c_str(),
             f.file, f.line);
      }
      f.state = State::kReady;
    }
    return true;
  }

  bool ResolveWarp(unsigned warp) {
    const Fiber& first = *fibers_[warp];
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const Fiber& f = *fibers_[warp + lane];
      if (f.state != State::kInWarp || f.op != first.op ||
          f.line != first.line || std::strcmp(f.file, first.file) != 0) {
        return false;
      }
    }
    uint64_t ballot = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      ballot |= uint64_t{fibers_[warp + lane]->value != 0} << lane;
    }
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      Fiber& f = *fibers_[warp + lane];
      f.result =
          f.op == WarpOp::kBallot ? ballot : fibers_[warp + f.source]->value;
      f.state = State::kReady;
    }
    return true;
  }

  const Fiber& FirstWaiting() {
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibers_[i]->state == State::kInWarp) return *fibers_[i];
    }
    for (unsigned i = 0; i < threads_; ++i) {
      if (fibers_[i]->state != State::kDone) return *fibers_[i];
    }
    return *fibers_[0];
  }

  std::string Where(const Fiber& f) {
    if (f.state == State::kDone) return "has left the kernel";
    return std::string(f.state == State::kAtBarrier
                           ? "waits for the block at "
                           : "waits for the warp at ") +
           f.file + ":" + std::to_string(f.line);
  }

  // Nobody can go on. `first` waits for lanes of its warp, or else everybody
  // who is left waits for the block.
  [[noreturn]] void Diagnose(const Fiber& first) {
    if (first.state == State::kInWarp) {
      const unsigned at = Flat(first), warp = at - at % kWarp;
      for (unsigned i = warp; i < warp + kWarp; ++i) {
        const Fiber& f = *fibers_[i];
        if (f.state == State::kInWarp && f.line == first.line &&
            std::strcmp(f.file, first.file) == 0) {
          continue;
        }
        const char* what =
            f.state == State::kAtBarrier ? "deadlock" : "lanes missing";
        Fail("%s: %s %s, %s of its warp %s", what, Name(first).c_str(),
             Where(first).c_str(), Name(f).c_str(), Where(f).c_str());
      }
    }
    for (unsigned i = 0; i < threads_; ++i) {
      const Fiber& f = *fibers_[i];
      if (f.state != State::kDone) continue;
      Fail("barrier divergence: %s %s, %s %s", Name(first).c_str(),
           Where(first).c_str(), Name(f).c_str(), Where(f).c_str());
    }
    Fail("deadlock: %s %s", Name(first).c_str(), Where(first).c_str());
  }

  unsigned Flat(const Fiber& f) {
    const Index3 t = f.indices.thread, n = f.indices.block_size;
    return t.x + n.x * (t.y + n.y * t.z);
  }
  std::string Name(const Fiber& f) {
    const Index3 t = f.indices.thread, b = f.indices.block;
    char text[160];
    std::snprintf(text, sizeof(text), "thread (%u,%u,%u) of block (%u,%u,%u)",
                  t.x, t.y, t.z, b.x, b.y, b.z);
    return text;
  }

  void EnterFiber(Fiber* fiber) {
    current_ = fiber;
    current_thread = &fiber->indices;
#ifdef HOST_CUDA_TSAN
    tsan_host_ = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(fiber->tsan, 1);  // 1: orders nothing
#endif
#ifdef HOST_CUDA_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(&fake, fiber->stack, kStackBytes);
#endif
    SwitchContext(&host_, &fiber->context);
#ifdef HOST_CUDA_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
    current_ = nullptr;
    current_thread = nullptr;
  }

  void LeaveFiber() {
    Fiber* fiber = current_;
#ifdef HOST_CUDA_TSAN
    __tsan_switch_to_fiber(tsan_host_, 1);
#endif
#ifdef HOST_CUDA_ASAN
    __sanitizer_start_switch_fiber(&fiber->fake_stack, host_stack_,
                                   host_stack_bytes_);
#endif
    SwitchContext(&fiber->context, &host_);
    FinishEntering(fiber);
  }

  void FinishEntering(Fiber* fiber) {
#ifdef HOST_CUDA_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &host_stack_,
                                    &host_stack_bytes_);
#else
    static_cast<void>(fiber);
#endif
  }

  // To ThreadSanitizer the launch comes before a block and the grid's end after
  // it, but blocks are not ordered among themselves: each thread is another
  // fiber in the next block. (A new one each time would take milliseconds.)
  void BeginBlock() {
    constexpr unsigned kShift = 37;
    std::rotate(fibers_.begin(), fibers_.begin() + kShift % threads_,
                fibers_.begin() + threads_);
#ifdef HOST_CUDA_TSAN
    ++blocks_run_;
    for (unsigned i = 0; i < threads_; ++i) {
      fibers_[i]->block_waits = fibers_[i]->warp_waits = 0;
    }
    __tsan_release(begin_);
#endif
  }
  void BeginTsanThread() {
#ifdef HOST_CUDA_TSAN
    __tsan_acquire(begin_);
#endif
  }
  void EndTsanThread() {
#ifdef HOST_CUDA_TSAN
    __tsan_release(end_);
#endif
  }
#ifdef HOST_CUDA_TSAN
  alignas(8) char begin_[8] = {}, end_[8] = {};
  // Of their own for each block, lest waits order blocks.
  static constexpr unsigned kSlots = 64;
  unsigned blocks_run_ = 0;
  alignas(8) char block_waits_[kSlots][16] = {};
  alignas(8) char warp_waits_[kSlots][kWarp][16] = {};
  void* tsan_host_ = nullptr;
#endif
  Order order_ = Order::kForward;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  unsigned threads_ = 0;
  bool running_ = false;
  void (*body_)(const void*) = nullptr;
  const void* arg_ = nullptr;
  void* shared_ = nullptr;
  std::vector<void*> old_shared_;
  Fiber* current_ = nullptr;
  Context host_;
#ifdef HOST_CUDA_ASAN
  const void* host_stack_ = nullptr;
  size_t host_stack_bytes_ = 0;
#endif
};

Engine& Self() {
  static thread_local Engine engine;
  return engine;
}

// A fiber runs one thread of a block after another, for ever.
void Engine::Entry() {
  Engine& engine = Self();
  engine.FinishEntering(engine.current_);
  for (;;) {
    engine.BeginTsanThread();
    engine.body_(engine.arg_);
    engine.EndTsanThread();
    engine.current_->state = State::kDone;
    engine.LeaveFiber();
  }
}

}  // namespace

void SetOrder(Order order, uint64_t seed) { Self().SetOrder(order, seed); }

void RunGrid(Index3 grid, Index3 block, size_t shared_bytes,
             void (*body)(const void*), const void* arg) {
  Self().RunGrid(grid, block, shared_bytes, body, arg);
}

void* SharedMemory() { return Self().shared(); }

int Lane() { return static_cast<int>(Self().FlatCurrent() % kWarp); }

void BlockBarrier(const char* file, int line) {
  Self().WaitOrdered(State::kAtBarrier, file, line);
}

uint64_t WarpExchange(WarpOp op, unsigned mask, uint64_t value, int source,
                      const char* file, int line) {
  Engine& engine = Self();
  if (mask != kFullMask) {
    engine.Fail("lanes missing: the mask at %s:%d is %#x, not all lanes", file,
                line, mask);
  }
  Fiber& fiber = engine.current();
  fiber.op = op, fiber.value = value, fiber.source = source;
  // Only a warp's barrier orders memory; shuffles and votes do not.
  if (op == WarpOp::kBarrier) {
    engine.WaitOrdered(State::kInWarp, file, line);
  } else {
    engine.Wait(State::kInWarp, file, line);
  }
  return fiber.result;
}

}  // namespace host_cuda
