#include "tests/host_cuda/shim/context.h"

#include <cstdint>

#if defined(__x86_64__)
// Callee-saved registers of the System V ABI. %rdi: where to save the stack
// pointer, %rsi: the stack pointer to go to.
asm(R"(
.text
.globl host_cuda_switch
.type host_cuda_switch, @function
host_cuda_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size host_cuda_switch, .-host_cuda_switch
)");
#elif defined(__aarch64__)
// Callee-saved registers of AAPCS64: x19-x30 and the low halves of v8-v15.
asm(R"(
.text
.globl host_cuda_switch
.type host_cuda_switch, %function
host_cuda_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size host_cuda_switch, .-host_cuda_switch
)");
#endif

namespace host_cuda {

#ifdef HOST_CUDA_UCONTEXT

void MakeContext(Context* context, void* stack, size_t bytes, void (*entry)()) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
}
void SwitchContext(Context* from, Context* to) { swapcontext(from, to); }

#else

extern "C" void host_cuda_switch(void** from, void* to);

void MakeContext(Context* context, void* stack, size_t bytes, void (*entry)()) {
  auto* top = reinterpret_cast<uintptr_t*>(
      (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t{15});
#ifdef __x86_64__
  // Six registers and the return address; at entry the stack pointer is 8 short
  // of a multiple of 16, as after a call.
  constexpr int kWords = 8, kReturn = 6;
#else
  constexpr int kWords = 20, kReturn = 11;  // x30
#endif
  top -= kWords;
  for (int i = 0; i < kWords; ++i) top[i] = 0;
  top[kReturn] = reinterpret_cast<uintptr_t>(entry);
  *context = top;
}
void SwitchContext(Context* from, Context* to) { host_cuda_switch(from, *to); }

#endif

}  // namespace host_cuda
