#include "launch/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>

namespace carry {
namespace {

std::atomic<int> caught{0};
static_assert(std::atomic<int>::is_always_lock_free);

void Catch(int signal) {
  const int before = caught.exchange(signal);
  if (before == SIGINT && signal == SIGINT) _exit(130);
}

}  // namespace

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = Catch;
  sigemptyset(&action.sa_mask);
  // Reads and writes in progress go on.
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

int InterruptSignal() { return caught.load(); }

}  // namespace carry
