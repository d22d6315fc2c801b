#include "kernels/backend.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>

#include "kernels/check.h"
#include "kernels/checksum.h"
#include "kernels/cross_entropy.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/matmul.h"

namespace carry {
namespace {

class CpuPack : public WeightPack {
 public:
  CpuPack(const ConstMatView& weight, bool transpose, DType dtype, int64_t rows)
      : packed_(weight, transpose, dtype, rows) {}
  void Update(const ConstMatView& weight) override { packed_.Update(weight); }
  void UpdateBoth(const ConstMatView& weight, WeightPack& other) override {
    PackedWeight::UpdateBoth(weight, &packed_,
                             &static_cast<CpuPack&>(other).packed_);
  }
  int64_t bytes() const override { return packed_.bytes(); }
  const PackedWeight& packed() const { return packed_; }

 private:
  PackedWeight packed_;
};

// The number behind `key` in a file of "key: value kB" lines, in bytes.
int64_t ReadKilobytes(const char* path, const std::string& key) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    int64_t value;
    if (word == key && file >> value) return value * 1024;
  }
  return -1;
}

int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value;
  return file >> value ? value : -1;  // "max" means no limit
}

// Qualified calls are the kernels of kernels/<op>.h.
class Cpu : public Backend {
 public:
  Device device() const override { return Device::kCpu; }
  void* Allocate(int64_t bytes) override;
  void Free(void* block) override { std::free(block); }
  int64_t AvailableMemory() override;
  void FromHost(void* to, const void* host, int64_t bytes) override {
    std::memcpy(to, host, bytes);
  }
  absl::Status ToHost(void* host, const void* from, int64_t bytes) override {
    std::memcpy(host, from, bytes);
    return absl::OkStatus();
  }
  void Copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch,
            int64_t row_bytes, int64_t rows) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * to_pitch,
                  static_cast<const char*>(from) + r * from_pitch, row_bytes);
    }
  }
  void Zero(void* to, int64_t pitch, int64_t row_bytes, int64_t rows) override {
    for (int64_t r = 0; r < rows; ++r) {
      std::memset(static_cast<char*>(to) + r * pitch, 0, row_bytes);
    }
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }
  absl::Status status() const override { return absl::OkStatus(); }

  bool can_record() const override { return false; }
  void BeginRecording() override { CARRY_CHECK(can_record()); }
  std::unique_ptr<RecordedWork> EndRecording() override { return nullptr; }

  void MatMul(const ConstMatView& a, bool transpose_a, const ConstMatView& b,
              bool transpose_b, const MatView& c, Write write) override {
    MatMulArgs args;
    args.a = a;
    args.transpose_a = transpose_a;
    args.b = b;
    args.transpose_b = transpose_b;
    args.c = c;
    args.write = write;
    carry::MatMul(args);
  }
  bool one_pack() const override { return false; }
  std::unique_ptr<WeightPack> Pack(const ConstMatView& weight, bool transpose,
                                   DType dtype, int64_t rows) override {
    return std::make_unique<CpuPack>(weight, transpose, dtype, rows);
  }
  void MatMul(const ConstMatView& a, const WeightPack& weight, bool,
              const MatView& c, Write write, const float* bias) override {
    carry::MatMul(a, static_cast<const CpuPack&>(weight).packed(), c, write,
                  bias);
  }

  void CausalConv1dForward(const CausalConv1dArgs& args,
                           const CausalConv1dForwardOut& out) override {
    carry::CausalConv1dForward(args, out);
  }
  void CausalConv1dBackward(const CausalConv1dArgs& args,
                            const CausalConv1dBackwardArgs& grad) override {
    carry::CausalConv1dBackward(args, grad);
  }
  void CrossEntropy(const ConstMatView& logits, const int32_t* targets,
                    float weight, const MatView& dlogits, float* nll) override {
    carry::CrossEntropy(logits, targets, weight, dlogits, nll);
  }
  void EmbeddingForward(const int32_t* tokens, int64_t rows, const float* table,
                        int64_t dim, float* out) override {
    carry::EmbeddingForward(tokens, rows, table, dim, out);
  }
  void EmbeddingBackward(const int32_t* tokens, int64_t rows, const float* dout,
                         int64_t vocab, int64_t dim, float* dtable) override {
    carry::EmbeddingBackward(tokens, rows, dout, vocab, dim, dtable);
  }
  void RmsNormForward(const RmsNormForwardArgs& args) override {
    carry::RmsNormForward(args);
  }
  void RmsNormBackward(const RmsNormBackwardArgs& args) override {
    carry::RmsNormBackward(args);
  }

  int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                                 int64_t states) const override {
    return carry::SelectiveScanSavedSize(batch, time, channels, states);
  }
  void SelectiveScanForward(const SelectiveScanArgs& args,
                            const SelectiveScanForwardOut& out) override {
    carry::SelectiveScanForward(args, out);
  }
  void SelectiveScanBackward(const SelectiveScanArgs& args,
                             const SelectiveScanBackwardArgs& grad) override {
    carry::SelectiveScanBackward(args, grad);
  }
  void SelectiveScanSummary(const SelectiveScanArgs& args,
                            const ScanSummary& summary) override {
    carry::SelectiveScanSummary(args, summary);
  }
  void SelectiveScanGradSummary(const SelectiveScanArgs& args,
                                const ConstMatView& dout,
                                const ScanSummary& summary) override {
    carry::SelectiveScanGradSummary(args, dout, summary);
  }
  void ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                        const float* a, const float* s, const float* dt_sum,
                        float* state) override {
    carry::ApplyScanSummary(batch, channels, states, a, s, dt_sum, state);
  }

  void AdamW(const AdamWArgs& args) override { carry::AdamW(args); }
  absl::Status SumsOfSquares(
      const std::vector<std::pair<const float*, int64_t>>& ranges,
      double* sums) override {
    for (const auto& [x, n] : ranges) *sums++ = SumOfSquares(x, n);
    return absl::OkStatus();
  }

  void AddTo(float* dst, const void* src, DType type, int64_t n) override {
    carry::AddTo(dst, src, type, n);
  }
  void AddMatrix(const MatView& dst, const ConstMatView& src) override {
    carry::AddMatrix(dst, src);
  }
  void StridedCopy(const StridedCopyArgs& args) override {
    carry::StridedCopy(args);
  }
  void AddColumnSums(const ConstMatView& x, float* sums) override {
    carry::AddColumnSums(x, sums);
  }
  void AddProduct(float* dst, const float* a, const float* b,
                  int64_t n) override {
    carry::AddProduct(dst, a, b, n);
  }
  void NegativeExp(const float* x, float* y, int64_t n) override {
    carry::NegativeExp(x, y, n);
  }
  void Checksum(const float* x, int64_t n, uint64_t* out) override {
    *out = carry::Checksum(x, n, /*seed=*/0);
  }
  absl::StatusOr<int64_t> FirstNonFinite(const void* x, DType type,
                                         int64_t n) override {
    return carry::FirstNonFinite(x, type, n);
  }
};

void* Cpu::Allocate(int64_t bytes) {
  constexpr int64_t kHugeFrom = int64_t{1} << 20;
  constexpr int64_t kHugePage = int64_t{2} << 20;
  const bool huge = bytes >= kHugeFrom;
  void* block = nullptr;
  if (posix_memalign(&block, huge ? kHugePage : 64, bytes) != 0) return nullptr;
  // Only pages that are used whole: a started one would be resident whole.
  if (huge) madvise(block, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return block;
}

// Of the control group's limit and what the system has.
int64_t Cpu::AvailableMemory() {
  int64_t available = ReadKilobytes("/proc/meminfo", "MemAvailable:");
  if (available < 0) available = std::numeric_limits<int64_t>::max();
  const int64_t limit = ReadNumber("/sys/fs/cgroup/memory.max");
  const int64_t used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0) {
    available = std::min(available, std::max<int64_t>(0, limit - used));
  }
  return available;
}

}  // namespace

const char* Name(Device device) {
  return device == Device::kCuda ? "CUDA" : "CPU";
}

Backend& CpuBackend() {
  static Cpu* cpu = new Cpu;
  return *cpu;
}

}  // namespace carry
