// The lines that a person watches.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "launch/metrics.h"

namespace carry {

// "step 12/400 | loss 2.3026 | 3.322 bits/byte | norm 0.98 | lr 6.00e-04 |
//  40.0K tok/s | 35% of matmul peak | 3m05s left", on one line; what is not
// known is left out.
std::string ProgressLine(const TrainMetrics& metrics, int64_t steps,
                         double seconds_left);

// Shows progress on a terminal by redrawing one line, elsewhere line by line,
// and keeps every line in a log file. Not thread-safe.
class Progress {
 public:
  // `screen` is usually stdout; it is not closed. `steps` is the length of the
  // run.
  Progress(std::FILE* screen, int64_t steps);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // Also writes to this file from now on: appended to, or begun anew.
  absl::Status OpenLog(const std::string& path, bool append);

  void Step(const TrainMetrics& metrics);
  // A line that stays, such as "saved ...".
  void Note(absl::string_view line);

 private:
  void Clear();

  std::FILE* screen_;
  bool terminal_;
  std::FILE* log_ = nullptr;
  int64_t steps_;
  // Moving average over about ten steps, for the time left.
  double seconds_per_step_ = 0;
  size_t drawn_ = 0;
};

}  // namespace carry
