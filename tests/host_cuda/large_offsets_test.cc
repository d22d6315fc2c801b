// Matrices whose rows are 2^30 elements and more apart, in memory of which only
// the pages that are used exist: kernels give the bits that they give where the
// same rows lie close together. And sizes of workspaces and grids beyond 2^31.
#include <sys/mman.h>

#include <cstring>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/check.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/checksum.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/device/launch.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_scan_layout.h"
#include "tests/kernels/case_util.h"

namespace carry::cuda {
namespace {

// Close together, and far apart. No vector of four elements fits rows of the
// first; kernels may add in another order there.
constexpr std::pair<int64_t, int64_t> kStrides[] = {
    {65, (int64_t{1} << 30) + 1}, {64, int64_t{3} << 30}};

// Zeros; pages exist from their first use on.
class SparseMemory {
 public:
  explicit SparseMemory(int64_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {
    CARRY_CHECK(data_ != MAP_FAILED);
  }
  SparseMemory(const SparseMemory&) = delete;
  SparseMemory& operator=(const SparseMemory&) = delete;
  ~SparseMemory() { munmap(data_, bytes_); }
  void* data() const { return data_; }

 private:
  size_t bytes_;
  void* data_;
};

// Matrices of equal contents for every stride, and what became of them. They
// are columns of one wide matrix: the thread sanitizer has room for one.
class Matrices {
 public:
  explicit Matrices(int64_t stride)
      : stride_(stride),
        memory_(kMostRows * stride * 4 + kMostMatrices * kApart) {}

  MatView Of(int64_t rows, int64_t cols, DType dtype) {
    const auto index = static_cast<int64_t>(views_.size());
    EXPECT_TRUE(rows <= kMostRows && index < kMostMatrices);
    const MatView view = {static_cast<char*>(memory_.data()) + index * kApart,
                          dtype, rows, cols, stride_};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        const auto x = static_cast<float>(random_(-1, 1));
        void* at = Row(view, r) + c * SizeOf(dtype);
        if (dtype == DType::kF32) {
          std::memcpy(at, &x, sizeof(x));
        } else {
          const BFloat16 half = ToBFloat16(x);
          std::memcpy(at, &half, sizeof(half));
        }
      }
    }
    views_.push_back(view);
    return view;
  }
  float* Vector(int64_t n, double low = -1, double high = 1) {
    vectors_.push_back(carry::testing::Floats(random_.Vector(n, low, high)));
    return vectors_.back().data();
  }
  // All bytes of all of them, without the gaps.
  std::string Bytes() const {
    std::string bytes;
    for (const MatView& view : views_) {
      for (int64_t r = 0; r < view.rows; ++r) {
        bytes.append(Row(view, r), view.cols * SizeOf(view.dtype));
      }
    }
    for (const auto& vector : vectors_) {
      bytes.append(reinterpret_cast<const char*>(vector.data()),
                   vector.size() * sizeof(float));
    }
    return bytes;
  }

 private:
  static char* Row(const MatView& view, int64_t r) {
    return static_cast<char*>(view.data) + r * view.stride * SizeOf(view.dtype);
  }

  static constexpr int64_t kMostRows = 22, kMostMatrices = 16;
  // Bytes: rows that lie close together end before the next matrix.
  static constexpr int64_t kApart = 16 << 10;

  int64_t stride_;
  SparseMemory memory_;
  carry::testing::Random random_{7};
  std::vector<MatView> views_;
  std::list<std::vector<float>> vectors_;  // whose addresses are known
};

// `run` with rows close together and far apart.
template <class F>
void ExpectSameFarApart(const F& run) {
  for (const auto& [close, apart] : kStrides) {
    SCOPED_TRACE(apart);
    Matrices none(close), near(close), far(apart);
    run(&none, false);
    run(&near, true);
    run(&far, true);
    EXPECT_NE(none.Bytes(), near.Bytes()) << "nothing was computed";
    EXPECT_TRUE(far.Bytes() == near.Bytes());
  }
}

const DType kTypes[] = {DType::kF32, DType::kBF16};

TEST(LargeOffsets, Elementwise) {
  for (const DType dtype : kTypes) {
    ExpectSameFarApart([&](Matrices* m, bool compute) {
      const MatView a = m->Of(4, 36, dtype), b = m->Of(4, 36, DType::kF32);
      float *row = m->Vector(36), *sums = m->Vector(36);
      std::vector<float> workspace(AddColumnSumsWorkspace(4, 36));
      if (!compute) return;
      EXPECT_TRUE(AddMatrix(a, b, nullptr).ok());
      EXPECT_TRUE(AddRow(a, row, nullptr).ok());
      EXPECT_TRUE(AddColumnSums(a, sums, workspace.data(), nullptr).ok());
    });
  }
}

TEST(LargeOffsets, RmsNorm) {
  for (const DType dtype : kTypes) {
    ExpectSameFarApart([&](Matrices* m, bool compute) {
      constexpr int64_t kRows = 4, kDim = 36;
      const MatView delta = m->Of(kRows, kDim, dtype);
      const MatView y = m->Of(kRows, kDim, dtype);
      const MatView ddelta = m->Of(kRows, kDim, dtype);
      float *residual = m->Vector(kRows * kDim), *weight = m->Vector(kDim);
      float *sum = m->Vector(kRows * kDim), *inv_rms = m->Vector(kRows);
      float *dsum = m->Vector(kRows * kDim), *dweight = m->Vector(kDim);
      float* dresidual = m->Vector(kRows * kDim);
      std::vector<float> workspace(RmsNormBackwardWorkspace(kRows, kDim));
      if (!compute) return;
      EXPECT_TRUE(
          RmsNormForward({residual, delta, weight, 1e-5f, sum, y, inv_rms},
                         nullptr)
              .ok());
      EXPECT_TRUE(RmsNormBackward({delta, dsum, sum, inv_rms, weight, dresidual,
                                   ddelta, dweight},
                                  workspace.data(), nullptr)
                      .ok());
    });
  }
}

TEST(LargeOffsets, CrossEntropy) {
  for (const DType dtype : kTypes) {
    ExpectSameFarApart([&](Matrices* m, bool compute) {
      const MatView logits = m->Of(5, 40, DType::kF32);
      const MatView dlogits = m->Of(5, 40, dtype);
      float* nll = m->Vector(5);
      const int32_t targets[] = {0, 39, 7, 8, 21};
      if (!compute) return;
      EXPECT_TRUE(
          cuda::CrossEntropy(logits, targets, 0.5f, dlogits, nll, nullptr)
              .ok());
    });
  }
}

TEST(LargeOffsets, CausalConv1d) {
  for (const DType dtype : kTypes) {
    ExpectSameFarApart([&](Matrices* m, bool compute) {
      constexpr int64_t kBatch = 2, kTime = 3, kChannels = 36, kTaps = 4;
      constexpr int64_t kRows = kBatch * kTime, kHalo = kChannels * (kTaps - 1);
      CausalConv1dArgs args = {};
      args.batch = kBatch, args.time = kTime, args.channels = kChannels;
      args.taps = kTaps;
      args.x = m->Of(kRows, kChannels, dtype);
      args.weight = m->Vector(kChannels * kTaps);
      args.bias = m->Vector(kChannels);
      args.carry_in = m->Vector(kBatch * kHalo);
      const MatView y = m->Of(kRows, kChannels, dtype);
      const MatView dy = m->Of(kRows, kChannels, dtype);
      const MatView dx = m->Of(kRows, kChannels, dtype);
      float *carry = m->Vector(kBatch * kHalo), *dw = m->Vector(kTaps * 36);
      float *dbias = m->Vector(kChannels), *dcarry = m->Vector(kBatch * kHalo);
      std::vector<float> workspace(CausalConv1dBackwardWorkspace(args));
      if (!compute) return;
      EXPECT_TRUE(cuda::CausalConv1dForward(args, {y, carry}, nullptr).ok());
      EXPECT_TRUE(cuda::CausalConv1dBackward(args,
                                             {dy, carry, dx, dw, dbias, dcarry},
                                             workspace.data(), nullptr)
                      .ok());
    });
  }
}

// Whole, and in segments.
TEST(LargeOffsets, SelectiveScan) {
  constexpr int64_t kBatch = 2, kTime = 11, kChannels = 20, kStates = 5;
  constexpr int64_t kRows = kBatch * kTime, kAll = kBatch * kChannels * kStates;
  for (const DType dtype : kTypes) {
    for (const int64_t segments : {1, 2}) {
      ScanPlan plan;
      plan.segments = segments;
      plan.segment_time = 16 / segments;
      ExpectSameFarApart([&](Matrices* m, bool compute) {
        SelectiveScanArgs args = {};
        args.batch = kBatch, args.time = kTime, args.channels = kChannels;
        args.states = kStates;
        args.u = m->Of(kRows, kChannels, dtype);
        args.dt_raw = m->Of(kRows, kChannels, dtype);
        args.z = m->Of(kRows, kChannels, dtype);
        args.b = m->Of(kRows, kStates, DType::kF32);
        args.c = m->Of(kRows, kStates, DType::kF32);
        args.a = m->Vector(kChannels * kStates, -4, -0.1);
        args.d = m->Vector(kChannels);
        args.dt_bias = m->Vector(kChannels);
        args.state_in = m->Vector(kAll);
        const MatView out = m->Of(kRows, kChannels, dtype);
        SelectiveScanBackwardArgs grad = {};
        grad.dout = m->Of(kRows, kChannels, dtype);
        grad.du = m->Of(kRows, kChannels, dtype);
        grad.ddt_raw = m->Of(kRows, kChannels, dtype);
        grad.dz = m->Of(kRows, kChannels, dtype);
        grad.db = m->Of(kRows, kStates, DType::kF32);
        grad.dc = m->Of(kRows, kStates, DType::kF32);
        grad.da = m->Vector(kChannels * kStates);
        grad.dd = m->Vector(kChannels);
        grad.ddt_bias = m->Vector(kChannels);
        grad.dstate_in = m->Vector(kAll);
        float* state = m->Vector(kAll);
        std::vector<float> saved(
            SelectiveScanSavedSize(kBatch, kTime, kChannels, kStates));
        std::vector<float> workspace(
            SelectiveScanForwardWorkspace(args, plan) +
            SelectiveScanBackwardWorkspace(args, plan));
        grad.saved = saved.data();
        if (!compute) return;
        EXPECT_TRUE(cuda::SelectiveScanForward(args, {out, state, saved.data()},
                                               plan, workspace.data(), nullptr)
                        .ok());
        EXPECT_TRUE(cuda::SelectiveScanBackward(args, grad, plan,
                                                workspace.data(), nullptr)
                        .ok());
      });
    }
  }
}

// Rows of a table that has more than 2^32 elements.
TEST(LargeOffsets, Embedding) {
  constexpr int64_t kDim = 36, kVocab = int64_t{1} << 28;
  const SparseMemory table(kVocab * kDim * static_cast<int64_t>(sizeof(float)));
  const std::vector<int32_t> tokens = {0, int32_t{1} << 27, kVocab - 1, 5};
  for (const int32_t token : tokens) {
    float* row = static_cast<float*>(table.data()) + token * kDim;
    for (int64_t c = 0; c < kDim; ++c) {
      row[c] = static_cast<float>(token + c);
    }
  }
  std::vector<float> out(tokens.size() * kDim);
  ASSERT_TRUE(EmbeddingForward(tokens.data(),
                               static_cast<int64_t>(tokens.size()),
                               static_cast<const float*>(table.data()), kDim,
                               out.data(), nullptr)
                  .ok());
  for (size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(out[i], static_cast<float>(tokens[i / kDim] + i % kDim)) << i;
  }
}

// Sizes.

constexpr int64_t kHuge[] = {(int64_t{1} << 31) - 1, int64_t{1} << 31,
                             (int64_t{1} << 32) + 1, int64_t{1} << 40};

TEST(LargeSizes, GridsStayWithinWhatALaunchMayHave) {
  for (const int64_t n : kHuge) {
    EXPECT_EQ(GridFor(n, 256).x, 1u << 14);
    EXPECT_EQ(PartsFor(n, 256), 2048);
    const dim3 rows = GridForMatrix(n, 5, 256), cols = GridForMatrix(5, n, 256);
    EXPECT_EQ(rows.x, 1u);
    EXPECT_EQ(rows.y, 65535u);
    EXPECT_EQ(cols.x, (n + 255) / 256 > UINT32_MAX ? 0 : (n + 255) / 256);
    EXPECT_EQ(cols.y, 1u);
  }
}

TEST(LargeSizes, Workspaces) {
  for (const int64_t n : kHuge) {
    // Sums of 256 ranges of rows at least, 257 at most.
    EXPECT_GE(AddColumnSumsWorkspace(n, n / 1024), 256 * (n / 1024));
    EXPECT_LE(AddColumnSumsWorkspace(n, n / 1024), 257 * (n / 1024));
    EXPECT_GE(RmsNormBackwardWorkspace(n, 1 << 20), int64_t{1} << 20);
    EXPECT_EQ(RmsNormBackwardWorkspace(n, 1 << 20) % (1 << 20), 0);
    EXPECT_GE(EmbeddingBackwardWorkspace(n, n), 6 * n);
    EXPECT_EQ(FirstNonFiniteWorkspace(n), PartsFor(n, 256));
    EXPECT_EQ(ChecksumWorkspace(n), PartsFor(n, 256));
    CausalConv1dArgs conv = {};
    conv.batch = 8, conv.time = n, conv.channels = 8192, conv.taps = 4;
    const int64_t a_segment = 8 * 5 * int64_t{8192};
    EXPECT_GE(CausalConv1dBackwardWorkspace(conv), a_segment);
    EXPECT_EQ(CausalConv1dBackwardWorkspace(conv) % a_segment, 0);
  }
}

// Every part of backward's workspace follows the one before, whatever the
// sizes.
TEST(LargeSizes, ScanBackwardPartsDoNotOverlap) {
  for (const int64_t batch : {1, 64, 1024}) {
    for (const int64_t time : {int64_t{1} << 10, int64_t{1} << 20, kHuge[2]}) {
      for (const int64_t states : {1, 16, 256}) {
        SelectiveScanArgs args = {};
        args.batch = batch, args.time = time, args.channels = 8192;
        args.states = states;
        ScanPlan plan =
            PlanSelectiveScan(batch, time, args.channels, states, 132);
        EXPECT_GE(plan.segments * plan.segment_time, time);
        const int64_t folds = batch * plan.segments * args.channels;
        const BackwardLayout at = LayOutBackward(args, plan);
        EXPECT_EQ(at.dd - at.da, folds * states);
        EXPECT_EQ(at.dbias - at.dd, folds);
        EXPECT_EQ(at.dbc - at.dbias, folds);
        EXPECT_EQ(at.size - at.dbc,
                  at.channel_blocks * batch * time * 2 * states);
        EXPECT_GT(at.size, 0);
        EXPECT_EQ(SelectiveScanSavedSize(batch, time, args.channels, states),
                  batch * ((time + kScanTile - 1) / kScanTile) *
                      ScanSavedStates(states) * args.channels);
        EXPECT_EQ(SelectiveScanSummaryWorkspace(args, plan),
                  folds * (states + 1));
      }
    }
  }
}

}  // namespace
}  // namespace carry::cuda
