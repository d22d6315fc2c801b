// What the framework relies on of a device: memory in order, work that is
// recorded, errors that wait for the next who looks.
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "framework/train/generate.h"
#include "framework/train/streamed_pass.h"
#include "gtest/gtest.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/cublas.h"
#include "tests/framework/tiny_model.h"

namespace carry {
namespace {

class DeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::Status opened = UseCuda({});
    ASSERT_TRUE(opened.ok()) << opened;
  }
  void TearDown() override { SetDefaultDevice(Device::kCpu); }
};

std::vector<float> Floats(int64_t n) {
  std::vector<float> x(n);
  for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 1009) - 300.5f;
  return x;
}

// More than the pinned slots hold, and slots in turns.
TEST_F(DeviceTest, CopiesOfEverySizeArrive) {
  for (int64_t n : {int64_t{1}, int64_t{1000}, int64_t{7} << 20}) {
    std::vector<float> x = Floats(n);
    const Tensor t =
        Tensor::FromHost(x.data(), {n}, DType::kF32, MemoryPart::kData);
    const std::vector<float> want = x;
    std::fill(x.begin(), x.end(), 0.0f);  // It is ours again.
    EXPECT_EQ(Values(t), want);
  }
}

// Small ones share a slot; thousands go round the ring.
TEST_F(DeviceTest, ManySmallCopiesArrive) {
  constexpr int64_t kCopies = 3000, kFloats = 2001;
  const Tensor t = Tensor::Zeros({kCopies, kFloats}, DType::kF32);
  std::vector<float> x(kFloats);
  for (int64_t i = 0; i < kCopies; ++i) {
    x[0] = x.back() = static_cast<float>(i);
    t.backend().FromHost(t.Rows(i, 1).data(), x.data(), kFloats * 4);
  }
  const std::vector<float> got = Values(t);
  for (int64_t i = 0; i < kCopies; ++i) {
    ASSERT_EQ(got[i * kFloats], i);
    ASSERT_EQ(got[(i + 1) * kFloats - 1], i);
  }
}

TEST_F(DeviceTest, ColumnsAndRowsKeepTheirPlaces) {
  const std::vector<float> x = Floats(6 * 10);
  const Tensor t =
      Tensor::FromHost(x.data(), {2, 3, 10}, DType::kF32, MemoryPart::kData);
  const Tensor columns = t.Columns(3, 4);
  std::vector<float> want;
  for (int r = 0; r < 6; ++r) {
    for (int c = 3; c < 7; ++c) want.push_back(x[r * 10 + c]);
  }
  EXPECT_EQ(Values(columns), want);
  columns.Zero();
  const std::vector<float> after = Values(t);
  for (int i = 0; i < 60; ++i) {
    const int c = i % 10;
    EXPECT_EQ(after[i], c >= 3 && c < 7 ? 0.0f : x[i]) << i;
  }
}

TEST_F(DeviceTest, MemoryIsCountedByPart) {
  const int64_t before = GetMemoryUse(MemoryPart::kCarries).bytes;
  const int64_t host = GetMemoryUse(MemoryPart::kCarries, Device::kCpu).bytes;
  {
    const Tensor t = Tensor::Empty({1000}, DType::kF32, MemoryPart::kCarries);
    EXPECT_GE(GetMemoryUse(MemoryPart::kCarries).bytes, before + 4000);
    EXPECT_EQ(GetMemoryUse(MemoryPart::kCarries, Device::kCpu).bytes, host);
  }
  EXPECT_EQ(GetMemoryUse(MemoryPart::kCarries).bytes, before);
}

TEST_F(DeviceTest, HeldMemoryIsNotGivenToOthers) {
  void* held;
  {
    MemoryHold hold(Device::kCuda);
    held = Tensor::Empty({12345}, DType::kF32).data();
    hold.Close();
    const Tensor other = Tensor::Empty({12345}, DType::kF32);
    EXPECT_NE(other.data(), held);
  }
  EXPECT_EQ(Tensor::Empty({12345}, DType::kF32).data(), held);
}

TEST_F(DeviceTest, TheFirstValueThatIsNotFiniteIsFound) {
  std::vector<float> x = Floats(5000);
  const auto first = [&x]() {
    const Tensor t =
        Tensor::FromHost(x.data(), {static_cast<int64_t>(x.size())},
                         DType::kF32, MemoryPart::kData);
    return t.backend().FirstNonFinite(t.data(), t.dtype(), t.size());
  };
  EXPECT_EQ(*first(), -1);
  x[4711] = std::numeric_limits<float>::infinity();
  x[4712] = NAN;
  EXPECT_EQ(*first(), 4711);
}

// Tokens one by one are the recorded step; others in between are not.
TEST_F(DeviceTest, RecordedStepsGenerateWhatTheCpuDoes) {
  const std::vector<int32_t> tokens = {3, 1, 4, 1, 5, 9, 2,
                                       6, 5, 3, 5, 8, 9, 7};
  const std::vector<int64_t> reads = {4, 1, 1, 1, 2, 1, 1, 1, 1};
  std::vector<std::vector<float>> logits[2];
  for (Device device : {Device::kCpu, Device::kCuda}) {
    SetDefaultDevice(device);
    LanguageModel model(TinyModelConfig(), DType::kF32);
    model.Allocate(7, /*gradients=*/false);
    const int64_t vocab = model.config().vocab_size();
    Generator generator(model);
    int64_t at = 0, singles = 0;
    for (int64_t count : reads) {
      std::vector<int32_t> ids;
      for (int64_t i = 0; i < count; ++i) {
        ids.push_back(tokens[at++] % static_cast<int32_t>(vocab));
      }
      const absl::Status status = generator.Read(ids.data(), count, 3);
      ASSERT_TRUE(status.ok()) << status;
      singles = count == 1 ? singles + 1 : 0;
      EXPECT_EQ(generator.recorded(), device == Device::kCuda && singles > 1);
      logits[static_cast<int>(device)].emplace_back(generator.logits(),
                                                    generator.logits() + vocab);
      // Takes memory that the recorded step must not lose.
      Tensor::Zeros({300}, DType::kF32);
    }
  }
  for (size_t i = 0; i < reads.size(); ++i) {
    for (size_t v = 0; v < logits[0][i].size(); ++v) {
      ASSERT_NEAR(logits[1][i][v], logits[0][i][v],
                  1e-4 * (1 + std::abs(logits[0][i][v])))
          << "read " << i;
    }
  }
}

Tensor Filled(float value) {
  const std::vector<float> values(64, value);
  return Tensor::FromHost(values.data(), {8, 8}, DType::kF32,
                          MemoryPart::kActivations);
}

// fp32 by default to 24 bits of mantissa, not to TF32's 11.
TEST_F(DeviceTest, ProductsAreWhatTheRecipeSays) {
  const Tensor x = Filled(1.0f + 1.0f / 4096), w = Filled(1.0f);
  const Tensor y = Tensor::Empty({8, 8}, DType::kF32);
  y.backend().MatMul(x.view(), false, w.view(), true, y.view(),
                     Write::kOverwrite);
  for (float value : Values(y)) EXPECT_EQ(value, 8.0f + 8.0f / 4096);
}

TEST_F(DeviceTest, Tf32IsThereWhereItIsAskedFor) {
  const Tensor x = Filled(1.0f + 1.0f / 4096), w = Filled(1.0f);
  const Tensor y = Tensor::Empty({8, 8}, DType::kF32);
  absl::StatusOr<std::unique_ptr<cuda::CuBlas>> cublas =
      cuda::CuBlas::Load(cuda::StreamOf(y.backend()), /*tf32=*/true);
  ASSERT_TRUE(cublas.ok()) << cublas.status();
  const absl::Status status = (*cublas)->MatMul(x.view(), false, w.view(), true,
                                                y.view(), Write::kOverwrite);
  ASSERT_TRUE(status.ok()) << status;
  // Half of the last bit that TF32 keeps is rounded away.
  for (float value : Values(y)) EXPECT_EQ(value, 8.0f);
}

// Two generators on one model: one ends while the other records.
TEST_F(DeviceTest, ClosedHoldsDoNotEndOthers) {
  auto first = std::make_unique<MemoryHold>(Device::kCuda);
  first->Close();
  MemoryHold second(Device::kCuda);
  first = nullptr;
  const void* held = Tensor::Empty({54321}, DType::kF32).data();
  EXPECT_NE(Tensor::Empty({54321}, DType::kF32).data(), held);
}

}  // namespace
}  // namespace carry
