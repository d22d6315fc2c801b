// What a GPU's backend refuses, and what it does after an error.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "framework/device.h"
#include "framework/memory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cuda/backend.h"

namespace carry {
namespace {

using testing::HasSubstr;

constexpr int64_t kLargest = std::numeric_limits<int>::max();

std::unique_ptr<Backend> NewBackend() {
  cuda::BackendOptions options;
  options.allocate = [](int64_t, bool) { return nullptr; };
  absl::StatusOr<std::unique_ptr<Backend>> made =
      cuda::MakeBackend(std::move(options));
  EXPECT_TRUE(made.ok()) << made.status();
  return *std::move(made);
}

// m, n, k or a row's pitch: cuBLAS counts in 32 bits. Nothing is read.
TEST(BackendFault, ProductsBeyondWhatCuBlasCountsAreRefused) {
  struct Case {
    int64_t m, n, k, pitch;
  };
  for (const Case& c :
       {Case{kLargest + 1, 8, 8, 8}, Case{8, kLargest + 1, 8, kLargest + 1},
        Case{8, 8, kLargest + 1, kLargest + 1}, Case{8, 8, 8, kLargest + 1},
        Case{int64_t{1} << 32, 8, 8, 8}}) {
    const std::unique_ptr<Backend> backend = NewBackend();
    backend->MatMul({nullptr, DType::kF32, c.m, c.k, c.pitch}, false,
                    {nullptr, DType::kF32, c.k, c.n, c.pitch}, false,
                    {nullptr, DType::kF32, c.m, c.n, c.pitch},
                    Write::kOverwrite);
    const absl::Status status = backend->Synchronize();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr("is more than cuBLAS takes; lower "
                          "training.chunk_length"));
  }
}

// The first error stays, and what comes after it touches nothing.
TEST(BackendFault, AfterAnErrorNothingIsDone) {
  const std::unique_ptr<Backend> backend = NewBackend();
  auto* x = static_cast<float*>(backend->Allocate(64));
  const float one = 1, two = 2;
  backend->FromHost(x, &one, sizeof(one));
  EXPECT_TRUE(backend->Synchronize().ok());
  EXPECT_TRUE(backend->status().ok());
  const ConstMatView large = {x, DType::kF32, kLargest + 1, 1, 1};
  backend->MatMul(large, false, {x, DType::kF32, 1, 1, 1}, false,
                  {x, DType::kF32, kLargest + 1, 1, 1}, Write::kOverwrite);
  const absl::Status error = backend->status();
  EXPECT_FALSE(error.ok());

  backend->FromHost(x, &two, sizeof(two));
  backend->Zero(x, 4, 4, 1);
  backend->NegativeExp(x, x, 1);
  backend->BeginRecording();
  backend->AddTo(x, x, DType::kF32, 1);
  EXPECT_EQ(backend->EndRecording(), nullptr);
  float host = 7;
  EXPECT_EQ(backend->ToHost(&host, x, sizeof(host)), error);
  EXPECT_EQ(host, 7);
  EXPECT_EQ(backend->Synchronize(), error);
  // Untouched, for who can still read it.
  const std::unique_ptr<Backend> other = NewBackend();
  EXPECT_TRUE(other->ToHost(&host, x, sizeof(host)).ok());
  EXPECT_EQ(host, 1);
  backend->Free(x);
}

// More than any GPU has: for a tensor, and for a weight's copy in bf16.
TEST(BackendFaultDeathTest, WantOfMemoryEndsTheProcessAndSaysWhoAsked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const auto use = [] {
    if (!UseCuda({}).ok()) _Exit(9);
  };
  EXPECT_EXIT(
      {
        use();
        AllocateMemory(int64_t{1} << 50, MemoryPart::kCarries, Device::kCuda);
      },
      testing::ExitedWithCode(1),
      "out of memory on the GPU: 1.00 PiB asked for by carries, .* free on the "
      "GPU, .* in use .*; lower training.chunk_length");
  EXPECT_EXIT(
      {
        use();
        BackendOf(Device::kCuda)
            .Pack({nullptr, DType::kF32, int64_t{1} << 30, 1 << 20, 1 << 20},
                  false, DType::kBF16, 1);
      },
      testing::ExitedWithCode(1), "2.00 PiB asked for by parameters, ");
}

}  // namespace
}  // namespace carry
