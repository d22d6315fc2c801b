#include "kernels/cuda/backend.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/adamw.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/checksum.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/cublas.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/pinned_ring.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/runtime.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/strided_copy.h"

namespace carry::cuda {
namespace {

ConstMatView Dense(const void* data, DType dtype, const ConstMatView& like) {
  return {data, dtype, like.rows, like.cols, like.cols};
}

class CudaBackend;

// fp32: the weight itself; bf16: a copy.
class CudaPack : public WeightPack {
 public:
  CudaPack(CudaBackend& backend, const ConstMatView& weight, DType dtype);
  void Update(const ConstMatView& weight) override;
  // The backend's allocator counts the copy.
  int64_t bytes() const override { return 0; }
  const ConstMatView& view() const { return view_; }

 private:
  CudaBackend& backend_;
  std::shared_ptr<void> copy_;
  ConstMatView view_;
};

// The stream outlives it; `memory` is what the graph's kernels work in.
class RecordedGraph : public RecordedWork {
 public:
  RecordedGraph(CudaBackend& backend, Graph graph, std::shared_ptr<void> memory)
      : backend_(backend),
        graph_(std::move(graph)),
        memory_(std::move(memory)) {}
  void Run() override;

 private:
  CudaBackend& backend_;
  Graph graph_;
  std::shared_ptr<void> memory_;
};

class CudaBackend : public Backend {
 public:
  CudaBackend(BackendOptions options, DeviceProperties device)
      : options_(std::move(options)), device_(std::move(device)) {}

  absl::Status Open() {
    if (!stream_.status().ok()) return stream_.status();
    absl::StatusOr<std::unique_ptr<CuBlas>> cublas =
        CuBlas::Load(stream(), options_.tf32);
    if (!cublas.ok()) return cublas.status();
    cublas_ = *std::move(cublas);
    return absl::OkStatus();
  }

  Stream stream() const { return stream_.get(); }
  Device device() const override { return Device::kCuda; }
  std::string Describe() const {
    return absl::StrCat("GPU ", device_.index, " (", device_.name, ", sm_",
                        device_.architecture, ", ", device_.multiprocessors,
                        " multiprocessors)");
  }

  void* Allocate(int64_t bytes) override { return MallocDevice(bytes); }
  void Free(void* block) override { FreeDevice(block); }
  int64_t AvailableMemory() override { return FreeDeviceMemory(); }

  void FromHost(void* to, const void* host, int64_t bytes) override {
    if (bytes == 0 || !error_.ok()) return;
    Keep(ring_.Copy(to, host, bytes, stream()));
  }
  absl::Status ToHost(void* host, const void* from, int64_t bytes) override {
    if (bytes > 0) {
      Do([&] {
        return CopyAsync(host, bytes, from, bytes, bytes, 1, stream());
      });
    }
    return Synchronize();
  }
  void Copy(void* to, int64_t to_pitch, const void* from, int64_t from_pitch,
            int64_t row_bytes, int64_t rows) override {
    Do([&] {
      return CopyAsync(to, to_pitch, from, from_pitch, row_bytes, rows,
                       stream());
    });
  }
  void Zero(void* to, int64_t pitch, int64_t row_bytes, int64_t rows) override {
    Do([&] { return ZeroAsync(to, pitch, row_bytes, rows, stream()); });
  }
  absl::Status Synchronize() override {
    if (error_.ok()) {
      Keep(cuda::Synchronize(stream(), "the GPU's work since the last wait"));
    }
    return error_;
  }
  absl::Status status() const override { return error_; }

  bool can_record() const override { return true; }
  void BeginRecording() override {
    if (error_.ok()) Keep(Graph::Begin(stream()));
  }
  std::unique_ptr<RecordedWork> EndRecording() override {
    absl::StatusOr<Graph> graph = Graph::End(stream());
    Keep(graph.status());
    if (!error_.ok()) return nullptr;
    return std::make_unique<RecordedGraph>(*this, *std::move(graph),
                                           workspace_);
  }

  void MatMul(const ConstMatView& a, bool transpose_a, const ConstMatView& b,
              bool transpose_b, const MatView& c, Write write) override {
    if (!error_.ok() || c.rows == 0 || c.cols == 0) return;
    Keep(cublas_->MatMul(a, transpose_a, b, transpose_b, c, write));
  }
  bool one_pack() const override { return true; }
  std::unique_ptr<WeightPack> Pack(const ConstMatView& weight, bool,
                                   DType dtype, int64_t) override {
    return std::make_unique<CudaPack>(*this, weight, dtype);
  }
  void MatMul(const ConstMatView& a, const WeightPack& weight, bool transpose,
              const MatView& c, Write write, const float* bias) override {
    MatMul(a, false, static_cast<const CudaPack&>(weight).view(), transpose, c,
           write);
    if (bias != nullptr) Do([&] { return AddRow(c, bias, stream()); });
  }

  void CausalConv1dForward(const CausalConv1dArgs& args,
                           const CausalConv1dForwardOut& out) override {
    Do([&] { return cuda::CausalConv1dForward(args, out, stream()); });
  }
  void CausalConv1dBackward(const CausalConv1dArgs& args,
                            const CausalConv1dBackwardArgs& grad) override {
    float* workspace = Workspace<float>(CausalConv1dBackwardWorkspace(args));
    Do([&] {
      return cuda::CausalConv1dBackward(args, grad, workspace, stream());
    });
  }
  void CrossEntropy(const ConstMatView& logits, const int32_t* targets,
                    float weight, const MatView& dlogits, float* nll) override {
    Do([&] {
      return cuda::CrossEntropy(logits, targets, weight, dlogits, nll,
                                stream());
    });
  }
  void EmbeddingForward(const int32_t* tokens, int64_t rows, const float* table,
                        int64_t dim, float* out) override {
    Do([&] {
      return cuda::EmbeddingForward(tokens, rows, table, dim, out, stream());
    });
  }
  void EmbeddingBackward(const int32_t* tokens, int64_t rows, const float* dout,
                         int64_t vocab, int64_t dim, float* dtable) override {
    auto* workspace =
        Workspace<int32_t>(EmbeddingBackwardWorkspace(rows, vocab));
    Do([&] {
      return cuda::EmbeddingBackward(tokens, rows, dout, vocab, dim, dtable,
                                     workspace, stream());
    });
  }
  void RmsNormForward(const RmsNormForwardArgs& args) override {
    Do([&] { return cuda::RmsNormForward(args, stream()); });
  }
  void RmsNormBackward(const RmsNormBackwardArgs& args) override {
    float* workspace =
        Workspace<float>(RmsNormBackwardWorkspace(args.dy.rows, args.dy.cols));
    Do([&] { return cuda::RmsNormBackward(args, workspace, stream()); });
  }

  int64_t SelectiveScanSavedSize(int64_t batch, int64_t time, int64_t channels,
                                 int64_t states) const override {
    return cuda::SelectiveScanSavedSize(batch, time, channels, states);
  }
  void SelectiveScanForward(const SelectiveScanArgs& args,
                            const SelectiveScanForwardOut& out) override {
    const ScanPlan plan = PlanOf(args);
    float* workspace =
        Workspace<float>(SelectiveScanForwardWorkspace(args, plan));
    Do([&] {
      return cuda::SelectiveScanForward(args, out, plan, workspace, stream());
    });
  }
  void SelectiveScanBackward(const SelectiveScanArgs& args,
                             const SelectiveScanBackwardArgs& grad) override {
    const ScanPlan plan = PlanOf(args);
    float* workspace =
        Workspace<float>(SelectiveScanBackwardWorkspace(args, plan));
    Do([&] {
      return cuda::SelectiveScanBackward(args, grad, plan, workspace, stream());
    });
  }
  void SelectiveScanSummary(const SelectiveScanArgs& args,
                            const ScanSummary& summary) override {
    const ScanPlan plan = PlanOf(args);
    float* workspace =
        Workspace<float>(SelectiveScanSummaryWorkspace(args, plan));
    Do([&] {
      return cuda::SelectiveScanSummary(args, summary, plan, workspace,
                                        stream());
    });
  }
  void SelectiveScanGradSummary(const SelectiveScanArgs& args,
                                const ConstMatView& dout,
                                const ScanSummary& summary) override {
    const ScanPlan plan = PlanOf(args);
    float* workspace =
        Workspace<float>(SelectiveScanSummaryWorkspace(args, plan));
    Do([&] {
      return cuda::SelectiveScanGradSummary(args, dout, summary, plan,
                                            workspace, stream());
    });
  }
  void ApplyScanSummary(int64_t batch, int64_t channels, int64_t states,
                        const float* a, const float* s, const float* dt_sum,
                        float* state) override {
    Do([&] {
      return cuda::ApplyScanSummary(batch, channels, states, a, s, dt_sum,
                                    state, stream());
    });
  }

  void AdamW(const AdamWArgs& args) override {
    if (args.n > 0) Do([&] { return cuda::AdamW(args, stream()); });
  }
  absl::Status SumsOfSquares(
      const std::vector<std::pair<const float*, int64_t>>& ranges,
      double* sums) override;

  void AddTo(float* dst, const void* src, DType type, int64_t n) override {
    if (n > 0) Do([&] { return cuda::AddTo(dst, src, type, n, stream()); });
  }
  void AddMatrix(const MatView& dst, const ConstMatView& src) override {
    Do([&] { return cuda::AddMatrix(dst, src, stream()); });
  }
  void StridedCopy(const StridedCopyArgs& args) override {
    Do([&] { return cuda::StridedCopy(args, stream()); });
  }
  void AddColumnSums(const ConstMatView& x, float* sums) override {
    float* workspace = Workspace<float>(AddColumnSumsWorkspace(x.rows, x.cols));
    Do([&] { return cuda::AddColumnSums(x, sums, workspace, stream()); });
  }
  void AddProduct(float* dst, const float* a, const float* b,
                  int64_t n) override {
    Do([&] { return cuda::AddProduct(dst, a, b, n, stream()); });
  }
  void NegativeExp(const float* x, float* y, int64_t n) override {
    Do([&] { return cuda::NegativeExp(x, y, n, stream()); });
  }
  void Checksum(const float* x, int64_t n, uint64_t* out) override {
    auto* workspace = Workspace<uint64_t>(ChecksumWorkspace(n));
    Do([&] {
      return cuda::Checksum(x, n, /*seed=*/0, out, workspace, stream());
    });
  }
  absl::StatusOr<int64_t> FirstNonFinite(const void* x, DType type,
                                         int64_t n) override;

  std::shared_ptr<void> NewMemory(int64_t bytes, bool lasting) {
    return options_.allocate(bytes, lasting);
  }
  template <class F>
  void Do(const F& launch) {
    if (!error_.ok()) return;
    Keep(ToStatus(launch()));
  }

 private:
  void Keep(absl::Status status) {
    if (error_.ok()) error_ = std::move(status);
  }
  // Memory of the op that is queued next, free for the one after it: they run
  // in order.
  template <class T>
  T* Workspace(int64_t elements) {
    const int64_t bytes = elements * static_cast<int64_t>(sizeof(T));
    if (bytes > workspace_bytes_) {
      workspace_ = nullptr;
      workspace_ = NewMemory(bytes, /*lasting=*/false);
      workspace_bytes_ = bytes;
    }
    return static_cast<T*>(workspace_.get());
  }
  ScanPlan PlanOf(const SelectiveScanArgs& args) const {
    return PlanSelectiveScan(args.batch, args.time, args.channels, args.states,
                             device_.multiprocessors);
  }

  BackendOptions options_;
  DeviceProperties device_;
  OwnedStream stream_;
  PinnedRing ring_;
  std::unique_ptr<CuBlas> cublas_;
  absl::Status error_;
  std::shared_ptr<void> workspace_;
  int64_t workspace_bytes_ = 0;
};

absl::Status CudaBackend::SumsOfSquares(
    const std::vector<std::pair<const float*, int64_t>>& ranges, double* sums) {
  const auto count = static_cast<int64_t>(ranges.size());
  int64_t most = 0;
  for (const auto& range : ranges) {
    most = std::max(most, SumOfSquaresWorkspace(range.second));
  }
  auto* results = Workspace<double>(count + most);
  for (int64_t i = 0; i < count; ++i) {
    const float* x = ranges[i].first;
    const int64_t n = ranges[i].second;
    Do([&] {
      return SumOfSquares(x, n, results + count, results + i, stream());
    });
  }
  return ToHost(sums, results, count * static_cast<int64_t>(sizeof(double)));
}

absl::StatusOr<int64_t> CudaBackend::FirstNonFinite(const void* x, DType type,
                                                    int64_t n) {
  auto* result = Workspace<int64_t>(1 + FirstNonFiniteWorkspace(n));
  Do([&] {
    return cuda::FirstNonFinite(x, type, n, result, result + 1, stream());
  });
  int64_t index = -1;
  absl::Status status = ToHost(&index, result, sizeof(index));
  if (!status.ok()) return status;
  return index;
}

void RecordedGraph::Run() {
  backend_.Do([&] { return graph_.Launch(backend_.stream()); });
}

CudaPack::CudaPack(CudaBackend& backend, const ConstMatView& weight,
                   DType dtype)
    : backend_(backend), view_(weight) {
  if (dtype == weight.dtype) return;
  copy_ = backend.NewMemory(weight.rows * weight.cols * SizeOf(dtype),
                            /*lasting=*/true);
  view_ = Dense(copy_.get(), dtype, weight);
  Update(weight);
}

void CudaPack::Update(const ConstMatView& weight) {
  if (copy_ == nullptr) {
    view_ = weight;
    return;
  }
  backend_.Do([&] {
    return Cast(weight.data, weight.dtype, copy_.get(), view_.dtype,
                weight.rows * weight.cols, backend_.stream());
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(BackendOptions options) {
  absl::StatusOr<DeviceProperties> device = UseDevice(options.index);
  if (!device.ok()) return device.status();
  auto backend =
      std::make_unique<CudaBackend>(std::move(options), *std::move(device));
  absl::Status status = backend->Open();
  if (!status.ok()) return status;
  return backend;
}

Stream StreamOf(const Backend& backend) {
  return static_cast<const CudaBackend&>(backend).stream();
}

std::string Describe(const Backend& backend) {
  return static_cast<const CudaBackend&>(backend).Describe();
}

}  // namespace carry::cuda
