// CHECK for a programmer's broken invariant. What users, files or peers cause
// is an absl::Status instead.
#pragma once

#include <cstdio>
#include <cstdlib>

#define CARRY_CHECK(condition)                                          \
  do {                                                                  \
    if (!(condition)) [[unlikely]] {                                    \
      std::fprintf(stderr, "%s:%d: internal error: %s does not hold\n", \
                   __FILE__, __LINE__, #condition);                     \
      std::abort();                                                     \
    }                                                                   \
  } while (false)
