#include "kernels/reference/selective_scan_summary.h"

#include <cstddef>

namespace carry::reference {

ScanSummaries Summaries(const ScanInputs& in, const std::vector<double>& dout) {
  ScanInputs shard = in;
  shard.state_in.clear();
  ScanSummaries all;
  all.s = ScanForward(shard).state_out;
  all.r = ScanBackward(shard, dout, {}).state_in;
  // h_out = P 1 + s.
  shard.state_in.assign(all.s.size(), 1.0);
  all.p = ScanForward(shard).state_out;
  for (size_t i = 0; i < all.p.size(); ++i) all.p[i] -= all.s[i];
  return all;
}

}  // namespace carry::reference
