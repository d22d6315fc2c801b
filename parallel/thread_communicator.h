// Ranks as threads of one process: for tests of schedules and for race checks.
#pragma once

#include <memory>
#include <vector>

#include "parallel/communicator.h"

namespace carry {

// One communicator for each of `size` threads. `timeout_seconds` bounds each
// wait. When one rank's wait fails, the others fail at their next call.
std::vector<std::unique_ptr<Communicator>> MakeThreadCommunicators(
    int size, double timeout_seconds);

}  // namespace carry
