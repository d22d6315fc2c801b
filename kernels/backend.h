// Where arithmetic runs: every op of the framework, for one device's memory.
//
// Equations, shapes and types are those of kernels/<op>.h; pointers and views
// are of this device's memory. Work is in order of the calls. On a GPU it is
// asynchronous: a call returns when the work is queued, and an error of it, or
// of the call itself, is kept and returned by Synchronize and by whatever reads
// results. After an error later calls do nothing.
//
// Thread safety: the CPU's is that of the kernels; a GPU's backend belongs to
// one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/adamw.h"
#include "kernels/causal_conv1d.h"
#include "kernels/rms_norm.h"
#include "kernels/selective_scan.h"
#include "kernels/selective_scan_summary.h"
#include "kernels/strided_copy.h"
#include "kernels/types.h"

namespace carry {

enum class Device : uint8_t { kCpu, kCuda };
constexpr int kDevices = 2;
const char* Name(Device device);  // "CPU", "CUDA"

// A weight as a backend's products want it; made once an update.
class WeightPack {
 public:
  virtual ~WeightPack() = default;
  // Takes new values of the same shape.
  virtual void Update(const ConstMatView& weight) = 0;
  // The same for two packs of one weight: this one for y = x W^T, `other` for
  // dx = dy W.
  virtual void UpdateBoth(const ConstMatView& weight, WeightPack& other) {
    Update(weight);
    other.Update(weight);
  }
  // That it keeps without Backend's allocator knowing of it.
  virtual int64_t bytes() const = 0;
};

// Work that was recorded once and can be run again, on the same memory.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void Run() = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual Device device() const = 0;

  // Memory, aligned to 64 bytes at least, and in huge pages on the host where
  // it is large; nullptr if there is none left.
  virtual void* Allocate(int64_t bytes) = 0;
  virtual void Free(void* block) = 0;
  // Bytes that may still be taken.
  virtual int64_t AvailableMemory() = 0;

  // `rows` rows of `row_bytes` from and to host memory or within the device's.
  // The host's memory may be used again when these return; what FromHost
  // brought is there for all that is queued after it.
  virtual void FromHost(void* to, const void* host, int64_t bytes) = 0;
  virtual absl::Status ToHost(void* host, const void* from, int64_t bytes) = 0;
  virtual void Copy(void* to, int64_t to_pitch, const void* from,
                    int64_t from_pitch, int64_t row_bytes, int64_t rows) = 0;
  virtual void Zero(void* to, int64_t pitch, int64_t row_bytes,
                    int64_t rows) = 0;
  // Waits for all work; the first error there was.
  virtual absl::Status Synchronize() = 0;
  // The first error that is known without waiting.
  virtual absl::Status status() const = 0;

  // Whether many small calls gain by being recorded: a GPU's start as one.
  virtual bool can_record() const = 0;
  // What is called in between is recorded, not run. It must not copy from or to
  // the host; memory that it uses must stay (MemoryHold), and what it needs in
  // addition (packs, workspaces) must have been made by running it once.
  // nullptr after an error.
  virtual void BeginRecording() = 0;
  virtual std::unique_ptr<RecordedWork> EndRecording() = 0;

  // Products, kernels/matmul.h.
  virtual void MatMul(const ConstMatView& a, bool transpose_a,
                      const ConstMatView& b, bool transpose_b, const MatView& c,
                      Write write) = 0;
  // Whether one pack serves y = x W^T and dx = dy W, for any number of rows.
  virtual bool one_pack() const = 0;
  virtual std::unique_ptr<WeightPack> Pack(const ConstMatView& weight,
                                           bool transpose, DType dtype,
                                           int64_t rows) = 0;
  // c = a op(W) (+ c) (+ bias); `transpose` as in Pack.
  virtual void MatMul(const ConstMatView& a, const WeightPack& weight,
                      bool transpose, const MatView& c, Write write,
                      const float* bias) = 0;

  virtual void CausalConv1dForward(const CausalConv1dArgs& args,
                                   const CausalConv1dForwardOut& out) = 0;
  virtual void CausalConv1dBackward(const CausalConv1dArgs& args,
                                    const CausalConv1dBackwardArgs& grad) = 0;

  virtual void CrossEntropy(const ConstMatView& logits, const int32_t* targets,
                            float weight, const MatView& dlogits,
                            float* nll) = 0;
  virtual void EmbeddingForward(const int32_t* tokens, int64_t rows,
                                const float* table, int64_t dim,
                                float* out) = 0;
  virtual void EmbeddingBackward(const int32_t* tokens, int64_t rows,
                                 const float* dout, int64_t vocab, int64_t dim,
                                 float* dtable) = 0;

  virtual void RmsNormForward(const RmsNormForwardArgs& args) = 0;
  virtual void RmsNormBackward(const RmsNormBackwardArgs& args) = 0;

  // Floats that SelectiveScanForward saves; private to the backend.
  virtual int64_t SelectiveScanSavedSize(int64_t batch, int64_t time,
                                         int64_t channels,
                                         int64_t states) const = 0;
  virtual void SelectiveScanForward(const SelectiveScanArgs& args,
                                    const SelectiveScanForwardOut& out) = 0;
  virtual void SelectiveScanBackward(const SelectiveScanArgs& args,
                                     const SelectiveScanBackwardArgs& grad) = 0;
  virtual void SelectiveScanSummary(const SelectiveScanArgs& args,
                                    const ScanSummary& summary) = 0;
  virtual void SelectiveScanGradSummary(const SelectiveScanArgs& args,
                                        const ConstMatView& dout,
                                        const ScanSummary& summary) = 0;
  virtual void ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                                const float* a, const float* s,
                                const float* dt_sum, float* state) = 0;

  virtual void AdamW(const AdamWArgs& args) = 0;
  // The sum of squares of each range, as numbers of the host.
  virtual absl::Status SumsOfSquares(
      const std::vector<std::pair<const float*, int64_t>>& ranges,
      double* sums) = 0;

  // kernels/elementwise.h
  virtual void AddTo(float* dst, const void* src, DType type, int64_t n) = 0;
  virtual void AddMatrix(const MatView& dst, const ConstMatView& src) = 0;
  // kernels/strided_copy.h
  virtual void StridedCopy(const StridedCopyArgs& args) = 0;
  virtual void AddColumnSums(const ConstMatView& x, float* sums) = 0;
  virtual void AddProduct(float* dst, const float* a, const float* b,
                          int64_t n) = 0;
  virtual void NegativeExp(const float* x, float* y, int64_t n) = 0;
  // *out, in this device's memory, is a checksum of the floats' bits, the same
  // on all machines; kernels/checksum.h.
  virtual void Checksum(const float* x, int64_t n, uint64_t* out) = 0;
  virtual absl::StatusOr<int64_t> FirstNonFinite(const void* x, DType type,
                                                 int64_t n) = 0;
};

// Arithmetic on the CPU; lives as long as the program.
Backend& CpuBackend();

}  // namespace carry
