// What the scan's forward and backward passes agree on.
//
// Channels are counted in groups of 16, one cache line of fp32, whatever the
// vector length: transposed parameters and states are [group][N][16], padded
// with zeros beyond E. `saved` is [B][tile][group][N][16], the state before
// each tile of kScanTile tokens.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/selective_scan.h"

namespace carry {

constexpr int64_t kScanGroup = 16;

// Tokens between saved states; also the tile in which the inner loops run.
// Everything that a tile's inner loop writes has to stay in the L1 cache, since
// a store to a line in L2 costs 4 cycles; longer tiles save less often.
constexpr int64_t kScanTile = 16;

inline int64_t ScanGroups(int64_t channels) {
  return (channels + kScanGroup - 1) / kScanGroup;
}
// Where a panel that begins with group g ends: panels of `most` groups, aligned
// so that their rows are whole lines of memory.
inline int64_t PanelEnd(int64_t g, int64_t end, int64_t most) {
  return std::min((g / most + 1) * most, end);
}
// Channels of a panel with its padding.
inline int64_t WholeGroups(int64_t width) {
  return ScanGroups(width) * kScanGroup;
}
inline int64_t ScanTiles(int64_t time) {
  return (time + kScanTile - 1) / kScanTile;
}

// Calls body(b, group_begin, group_end) for each batch entry that the range
// [begin, end) of batch * groups touches.
template <class Body>
void ForScanSegments(int64_t groups, int64_t begin, int64_t end,
                     const Body& body) {
  while (begin < end) {
    const int64_t b = begin / groups;
    const int64_t stop = std::min(end, (b + 1) * groups);
    body(b, begin - b * groups, stop - b * groups);
    begin = stop;
  }
}

}  // namespace carry
