// SIGINT and SIGTERM ask a run to finish its step, save and exit; a second
// SIGINT exits at once, with status 130.
#pragma once

namespace carry {

// Call once, from the main thread.
void CatchInterrupts();

// The signal that asked to stop, or 0. Safe from any thread.
int InterruptSignal();

}  // namespace carry
