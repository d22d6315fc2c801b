#include "kernels/cuda/cublas.h"

#include <cublas_v2.h>
#include <dlfcn.h>

#include <algorithm>
#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace carry::cuda {

#define CARRY_STRING(x) #x
#define CARRY_NAME(x) CARRY_STRING(x)

// What is used of the library. cublas_v2.h renames some functions by macros,
// which the names here go through too.
struct CuBlas::Library {
  decltype(&cublasCreate) create;
  decltype(&cublasDestroy) destroy;
  decltype(&cublasSetStream) set_stream;
  decltype(&cublasSetMathMode) set_math_mode;
  decltype(&cublasGetVersion) get_version;
  decltype(&cublasGetStatusString) status_string;
  // Overloaded in C++.
  cublasStatus_t (*gemm_ex)(cublasHandle_t, cublasOperation_t,
                            cublasOperation_t, int m, int n, int k,
                            const void* alpha, const void* a, cudaDataType,
                            int lda, const void* b, cudaDataType, int ldb,
                            const void* beta, void* c, cudaDataType, int ldc,
                            cublasComputeType_t, cublasGemmAlgo_t);
};

namespace {

template <class F>
bool Find(void* library, const char* name, F* function) {
  *function = reinterpret_cast<F>(dlsym(library, name));
  return *function != nullptr;
}

cudaDataType Type(DType dtype) {
  CARRY_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
  return dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

const char kAdvice[] =
    "; install the cuBLAS of this CUDA version and put its folder on "
    "LD_LIBRARY_PATH, or set device: CPU";

}  // namespace

absl::StatusOr<std::unique_ptr<CuBlas>> CuBlas::Load(Stream stream, bool tf32) {
  static Library library;
  static const std::string* const error = [] {
    const std::string name = absl::StrCat("libcublas.so.", CUBLAS_VER_MAJOR);
    void* file = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (file == nullptr) return new std::string(dlerror());
    const bool found =
        Find(file, CARRY_NAME(cublasCreate), &library.create) &&
        Find(file, CARRY_NAME(cublasDestroy), &library.destroy) &&
        Find(file, CARRY_NAME(cublasSetStream), &library.set_stream) &&
        Find(file, "cublasSetMathMode", &library.set_math_mode) &&
        Find(file, CARRY_NAME(cublasGetVersion), &library.get_version) &&
        Find(file, "cublasGetStatusString", &library.status_string) &&
        Find(file, "cublasGemmEx", &library.gemm_ex);
    return new std::string(found ? ""
                                 : absl::StrCat(name, " lacks a function"));
  }();
  if (!error->empty()) {
    return absl::UnavailableError(absl::StrCat("cuBLAS: ", *error, kAdvice));
  }
  std::unique_ptr<CuBlas> cublas(new CuBlas);
  cublasHandle_t handle = nullptr;
  cublasStatus_t made = library.create(&handle);
  if (made == CUBLAS_STATUS_SUCCESS) {
    cublas->library_ = &library;
    cublas->handle_ = handle;
    cublas->tf32_ = tf32;
    made = library.set_stream(handle, stream);
  }
  if (made == CUBLAS_STATUS_SUCCESS) {
    // Split sums of bf16 products stay in fp32.
    made = library.set_math_mode(
        handle, static_cast<cublasMath_t>(
                    CUBLAS_DEFAULT_MATH |
                    CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION));
  }
  if (made == CUBLAS_STATUS_ALLOC_FAILED) {
    return absl::ResourceExhaustedError(
        "cuBLAS: the GPU has no memory left for it; another program may use "
        "the GPU, nvidia-smi shows it");
  }
  if (made != CUBLAS_STATUS_SUCCESS) {
    return absl::UnavailableError(
        absl::StrCat("cuBLAS: ", library.status_string(made), kAdvice));
  }
  return cublas;
}

CuBlas::~CuBlas() {
  if (handle_ != nullptr) {
    library_->destroy(static_cast<cublasHandle_t>(handle_));
  }
}

absl::Status CuBlas::MatMul(const ConstMatView& a, bool transpose_a,
                            const ConstMatView& b, bool transpose_b,
                            const MatView& c, Write write) {
  const int64_t m = c.rows, n = c.cols;
  const int64_t k = transpose_a ? a.rows : a.cols;
  CARRY_CHECK(a.dtype == b.dtype);
  CARRY_CHECK((transpose_a ? a.cols : a.rows) == m);
  CARRY_CHECK((transpose_b ? b.cols : b.rows) == k);
  CARRY_CHECK((transpose_b ? b.rows : b.cols) == n);
  const int64_t largest = std::max({m, n, k, a.stride, b.stride, c.stride});
  if (largest > std::numeric_limits<int>::max()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a matrix product of ", m, " x ", n, " x ", k,
        " is more than cuBLAS takes; lower training.chunk_length"));
  }
  const float alpha = 1, beta = write == Write::kAccumulate ? 1 : 0;
  const cublasComputeType_t compute = tf32_ && a.dtype == DType::kF32
                                          ? CUBLAS_COMPUTE_32F_FAST_TF32
                                          : CUBLAS_COMPUTE_32F;
  // cuBLAS's matrices are column-major: ours are their transposes, and
  // c^T = op(b)^T op(a)^T.
  const cublasStatus_t status = library_->gemm_ex(
      static_cast<cublasHandle_t>(handle_),
      transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
      transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(n),
      static_cast<int>(m), static_cast<int>(k), &alpha, b.data, Type(b.dtype),
      static_cast<int>(b.stride), a.data, Type(a.dtype),
      static_cast<int>(a.stride), &beta, c.data, Type(c.dtype),
      static_cast<int>(c.stride), compute, CUBLAS_GEMM_DEFAULT);
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("a matrix product of ", m, " x ", n, " x ", k,
                   " by cuBLAS: ", library_->status_string(status)));
}

}  // namespace carry::cuda
