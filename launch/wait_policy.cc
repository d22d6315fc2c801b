#include "launch/wait_policy.h"

#include <stdlib.h>
#include <unistd.h>

namespace carry {
namespace {

// Pauses of about 45 ns each.
constexpr char kSpins[] = "10000";

}  // namespace

void StartWithShortSpin(char** argv) {
  if (getenv("OMP_WAIT_POLICY") != nullptr) return;
  if (getenv("GOMP_SPINCOUNT") != nullptr) return;  // The second time too.
  if (setenv("GOMP_SPINCOUNT", kSpins, 0) != 0) return;
  execv("/proc/self/exe", argv);
  // Where that cannot be done, it is slower under load and no more.
}

}  // namespace carry
