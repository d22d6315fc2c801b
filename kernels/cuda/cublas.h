// Matrix products on a GPU by cuBLAS, which is loaded when first used.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/cuda/launch_status.h"
#include "kernels/types.h"

namespace carry::cuda {

class CuBlas {
 public:
  // Products go into `stream`. `tf32`: fp32 inputs may be rounded to TF32.
  // kUnavailable if the library is missing or of another major version.
  static absl::StatusOr<std::unique_ptr<CuBlas>> Load(Stream stream, bool tf32);
  ~CuBlas();
  CuBlas(const CuBlas&) = delete;
  CuBlas& operator=(const CuBlas&) = delete;

  // c = op(a) op(b) (+ c), kernels/matmul.h: fp32 accumulation; a and b of one
  // type. kInvalidArgument for sizes beyond 2^31 - 1, which cuBLAS's interface
  // cannot hold.
  absl::Status MatMul(const ConstMatView& a, bool transpose_a,
                      const ConstMatView& b, bool transpose_b, const MatView& c,
                      Write write);

 private:
  struct Library;
  CuBlas() = default;
  const Library* library_ = nullptr;
  void* handle_ = nullptr;
  bool tf32_ = false;
};

}  // namespace carry::cuda
