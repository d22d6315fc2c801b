// Switching between stacks: a dozen instructions on x86-64 and aarch64,
// ucontext elsewhere.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(__aarch64__)
#define HOST_CUDA_UCONTEXT 1
#include <ucontext.h>
#endif

namespace host_cuda {

#ifdef HOST_CUDA_UCONTEXT
using Context = ucontext_t;
#else
using Context = void*;  // The stack pointer; all else is on the stack.
#endif

// A context that will run entry() on a stack. `entry` never returns.
void MakeContext(Context* context, void* stack, size_t bytes, void (*entry)());
// Saves where we are in *from and goes on where *to was saved.
void SwitchContext(Context* from, Context* to);

}  // namespace host_cuda
