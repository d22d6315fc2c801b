#include "launch/human.h"

#include <cmath>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace carry {
namespace {

// Three significant digits, but never fewer than those before the point.
std::string ThreeDigits(double x) {
  const double size = std::fabs(x);
  return absl::StrFormat("%.*f", size < 9.995 ? 2 : size < 99.95 ? 1 : 0, x);
}

}  // namespace

std::string Human(double n) {
  if (!std::isfinite(n)) return absl::StrCat(n);
  static constexpr const char* kUnits[] = {"", "K", "M", "B", "T", "P", "E"};
  int unit = 0;
  while (std::fabs(n) >= 999.5 && unit < 6) {
    n /= 1000;
    ++unit;
  }
  if (unit == 0) return absl::StrFormat("%.4g", n);
  return absl::StrCat(ThreeDigits(n), kUnits[unit]);
}

std::string HumanSeconds(double seconds) {
  if (!(seconds >= 0) || seconds > 1e12) return "?";
  if (seconds < 59.95) return absl::StrFormat("%.1fs", seconds);
  const int64_t s = std::llround(seconds);
  if (s < 3600) return absl::StrFormat("%dm%02ds", s / 60, s % 60);
  const int64_t m = s / 60;
  if (m < 24 * 60) return absl::StrFormat("%dh%02dm", m / 60, m % 60);
  const int64_t h = m / 60;
  return absl::StrFormat("%dd%02dh", h / 24, h % 24);
}

}  // namespace carry
