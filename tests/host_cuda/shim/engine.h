// Runs the threads of a CUDA grid on the host, one block after another, each
// thread a fiber of the calling OS thread. What no GPU run would report stops
// the program with a line that names threads, file and line: barriers that only
// part of a block reaches, deadlock, shuffles with lanes missing.
//
// Thread safety: grids may be run from several OS threads at once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace host_cuda {

struct Index3 {
  unsigned x = 0, y = 0, z = 0;
};

// Of the fiber that runs now.
struct ThreadIndices {
  Index3 thread, block, block_size, grid_size;
};
extern thread_local const ThreadIndices* current_thread;

// In which order the threads of a block, and the blocks of a grid, are run
// between the points where they must wait for one another.
enum class Order { kForward, kReverse, kRandom };
// For grids that this OS thread runs from now on.
void SetOrder(Order order, uint64_t seed = 1);

// Runs body(arg) as every thread of the grid. Blocks have a multiple of 32
// threads. Shared memory is allocated at exactly its size and filled with 0xff,
// anew for each block.
void RunGrid(Index3 grid, Index3 block, size_t shared_bytes,
             void (*body)(const void*), const void* arg);

// The calls below are made by a fiber. `file` and `line` are the caller's.
void* SharedMemory();
void BlockBarrier(const char* file, int line);

enum class WarpOp { kBarrier, kShuffle, kBallot };
// Waits for all 32 lanes, and returns the value of lane `source` (kShuffle) or
// a bit for each lane whose value is not 0 (kBallot).
uint64_t WarpExchange(WarpOp op, unsigned mask, uint64_t value, int source,
                      const char* file, int line);
int Lane();

}  // namespace host_cuda
