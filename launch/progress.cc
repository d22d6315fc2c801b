#include "launch/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "launch/human.h"

namespace carry {
namespace {

// Columns of the terminal; a longer line would wrap and not redraw.
size_t Columns(std::FILE* screen) {
  winsize size{};
  if (ioctl(fileno(screen), TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
    return size.ws_col;
  }
  return 80;
}

}  // namespace

std::string ProgressLine(const TrainMetrics& m, int64_t steps,
                         double seconds_left) {
  std::string line =
      absl::StrFormat("step %d/%d | loss %.4f", m.step, steps, m.loss);
  if (!std::isnan(m.bits_per_byte)) {
    absl::StrAppendFormat(&line, " | %.3f bits/byte", m.bits_per_byte);
  }
  absl::StrAppendFormat(&line, " | norm %.3g | lr %.2e | %s tok/s", m.grad_norm,
                        m.learning_rate, Human(m.tokens_per_second));
  if (!std::isnan(m.matmul_share)) {
    absl::StrAppendFormat(&line, " | %.0f%% of matmul peak",
                          100 * m.matmul_share);
  }
  absl::StrAppend(&line, " | ", HumanSeconds(seconds_left), " left");
  if (m.skipped) absl::StrAppend(&line, " | NOT FINITE, update skipped");
  return line;
}

Progress::Progress(std::FILE* screen, int64_t steps)
    : screen_(screen), terminal_(isatty(fileno(screen)) != 0), steps_(steps) {}

Progress::~Progress() {
  if (drawn_ > 0) std::fputc('\n', screen_);
  std::fflush(screen_);
  if (log_ != nullptr) std::fclose(log_);
}

absl::Status Progress::OpenLog(const std::string& path, bool append) {
  log_ = std::fopen(path.c_str(), append ? "ab" : "wb");
  if (log_ == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot write: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

void Progress::Step(const TrainMetrics& m) {
  // `seconds` is one step's; lines may be several steps apart.
  seconds_per_step_ = seconds_per_step_ == 0
                          ? m.seconds
                          : 0.9 * seconds_per_step_ + 0.1 * m.seconds;
  std::string line =
      ProgressLine(m, steps_, seconds_per_step_ * (steps_ - m.step));
  if (log_ != nullptr) {
    absl::FPrintF(log_, "%s\n", line);
    std::fflush(log_);
  }
  if (terminal_) {
    line = line.substr(0, Columns(screen_) - 1);
    const size_t blanks = drawn_ > line.size() ? drawn_ - line.size() : 0;
    absl::FPrintF(screen_, "\r%s%s", line, std::string(blanks, ' '));
    drawn_ = line.size();
  } else {
    absl::FPrintF(screen_, "%s\n", line);
  }
  std::fflush(screen_);
}

void Progress::Clear() {
  if (drawn_ == 0) return;
  absl::FPrintF(screen_, "\r%s\r", std::string(drawn_, ' '));
  drawn_ = 0;
}

void Progress::Note(absl::string_view line) {
  Clear();
  absl::FPrintF(screen_, "%s\n", line);
  std::fflush(screen_);
  if (log_ != nullptr) {
    absl::FPrintF(log_, "%s\n", line);
    std::fflush(log_);
  }
}

}  // namespace carry
