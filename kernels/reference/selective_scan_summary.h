// Summaries of a shard as plain double loops, from the scan's own oracle:
// kernels/selective_scan_summary.h.
#pragma once

#include <vector>

#include "kernels/reference/selective_scan.h"

namespace carry::reference {

struct ScanSummaries {
  std::vector<double> s, r;  // [B, E, N]
  std::vector<double> p;     // [B, E, N], the decay across the shard
};
ScanSummaries Summaries(const ScanInputs& in, const std::vector<double>& dout);

}  // namespace carry::reference
