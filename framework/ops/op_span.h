// The work of ops, for whoever compares their time with a limit.
#pragma once

#include "kernels/span.h"

namespace carry {

// A matrix product [m, k] [k, n].
inline SpanInfo ProductInfo(const char* name, DType dtype, int64_t m, int64_t n,
                            int64_t k) {
  SpanInfo info{.category = "op", .name = name, .dtype = dtype};
  info.m = m;
  info.n = n;
  info.k = k;
  return info;
}

// An op bound by the bytes that it must read and write.
inline SpanInfo StreamInfo(const char* name, DType dtype, int64_t bytes) {
  SpanInfo info{.category = "op", .name = name, .dtype = dtype};
  info.bytes = bytes;
  return info;
}

// A scan over (token, channel, state), and the bytes of what is by token and
// channel.
inline SpanInfo ScanInfo(const char* name, DType dtype, int64_t elements,
                         int64_t bytes) {
  SpanInfo info{.category = "op", .name = name, .dtype = dtype};
  info.elements = elements;
  info.bytes = bytes;
  return info;
}

}  // namespace carry
