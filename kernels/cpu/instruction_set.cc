#include "kernels/instruction_set.h"

#include "hwy/highway.h"

namespace carry {

const char* InstructionSet() {
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(usable & -usable);  // Lower bits are better.
}

}  // namespace carry
