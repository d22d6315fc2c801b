// Parts of matrices that share their memory.
#pragma once

#include "kernels/types.h"

namespace carry {

inline ConstMatView RowsOf(const ConstMatView& v, int64_t begin, int64_t end) {
  const char* data = static_cast<const char*>(v.data);
  return {data + begin * v.stride * SizeOf(v.dtype), v.dtype, end - begin,
          v.cols, v.stride};
}

inline ConstMatView ColumnsOf(const ConstMatView& v, int64_t begin,
                              int64_t end) {
  const char* data = static_cast<const char*>(v.data);
  return {data + begin * SizeOf(v.dtype), v.dtype, v.rows, end - begin,
          v.stride};
}

}  // namespace carry
