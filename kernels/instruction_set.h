// Which of the compiled instruction sets the kernels use here.
#pragma once

namespace carry {

// Highway's name of it: "AVX3", "AVX2", "NEON", ...
const char* InstructionSet();

}  // namespace carry
