// What the CPU can do beyond the instruction sets that Highway tells apart.
#pragma once

namespace carry {

#if defined(__x86_64__) || defined(__i386__)
// AVX512-BF16: vcvtneps2bf16.
inline const bool cpu_rounds_to_bf16 = __builtin_cpu_supports("avx512bf16");
#endif

}  // namespace carry
