// What the CPU kernels' tests share: dispatch targets and threads.
#pragma once

#include <functional>

#include "hwy/highway.h"
#include "kernels/parallel_for.h"
#include "tests/kernels/case_util.h"

namespace carry::testing {

// Runs `body` with every instruction set that was compiled and that this CPU
// has.
inline void ForEachTarget(const std::function<void()>& body) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Sets the number of threads for a scope.
class WithThreads {
 public:
  explicit WithThreads(int n) : before_(NumThreads()) { SetNumThreads(n); }
  ~WithThreads() { SetNumThreads(before_); }

 private:
  int before_;
};

}  // namespace carry::testing
