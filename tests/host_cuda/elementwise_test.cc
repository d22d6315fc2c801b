#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/embedding.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/case_util.h"

namespace carry {
namespace {

using testing::DeviceMemory;
using testing::Floats;

class CudaElementwiseTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(CudaElementwiseTest, CastRoundsToNearestEven) {
  const int64_t n = GetParam();
  testing::Random random(5);
  std::vector<float> x = Floats(random.Vector(n, -100, 100));
  const float odd[] = {NAN,         -NAN,        INFINITY, -INFINITY, 3.4e38f,
                       1.00390625f, 1.01171875f, -0.0f,    1.2e-38f};
  for (int64_t i = 0; i < std::min<int64_t>(n, 9); ++i) x[i] = odd[i];
  std::vector<BFloat16> half(n);
  std::vector<float> back(n);
  DeviceMemory mem;
  BFloat16* half_at = mem.InOut(&half);
  EXPECT_TRUE(
      cuda::Cast(mem.In(x), DType::kF32, half_at, DType::kBF16, n, nullptr)
          .ok());
  EXPECT_TRUE(cuda::Cast(half_at, DType::kBF16, mem.InOut(&back), DType::kF32,
                         n, nullptr)
                  .ok());
  mem.Finish();
  for (int64_t i = 0; i < n; ++i) {
    if (std::isnan(x[i])) {
      EXPECT_TRUE(std::isnan(back[i]));
      continue;
    }
    EXPECT_EQ(half[i].bits, ToBFloat16(x[i]).bits) << x[i];
    EXPECT_EQ(back[i], ToFloat(half[i]));
  }
}

TEST_P(CudaElementwiseTest, AddScaleFill) {
  const int64_t n = GetParam();
  testing::Random random(5);
  const std::vector<float> x = Floats(random.Vector(n, -1, 1));
  std::vector<BFloat16> half(n);
  for (int64_t i = 0; i < n; ++i) half[i] = ToBFloat16(x[i]);
  std::vector<float> sum = x, filled(n);
  DeviceMemory mem;
  float* sum_at = mem.InOut(&sum);
  EXPECT_TRUE(cuda::AddTo(sum_at, mem.In(x), DType::kF32, n, nullptr).ok());
  EXPECT_TRUE(cuda::AddTo(sum_at, mem.In(half), DType::kBF16, n, nullptr).ok());
  EXPECT_TRUE(cuda::Scale(sum_at, 0.5f, n, nullptr).ok());
  EXPECT_TRUE(cuda::Fill(mem.InOut(&filled), 3.0f, n, nullptr).ok());
  mem.Finish();
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(sum[i], (2 * x[i] + ToFloat(half[i])) * 0.5f);
  }
  EXPECT_EQ(filled, std::vector<float>(n, 3.0f));
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaElementwiseTest,
                         ::testing::Values(1, 15, 33, 1000, 40000));

TEST(CudaEmbedding, GathersAndSumsInOrder) {
  for (int64_t dim : {1, 7, 64, 500}) {
    std::vector<int32_t> tokens = {3, 0, 3, 3, 4, 0};
    for (int i = 0; i < 300; ++i) tokens.push_back(i * 7 % 5);
    const auto rows = static_cast<int64_t>(tokens.size());
    testing::Random random(1);
    const auto table = Floats(random.Vector(5 * dim, -1, 1));
    const auto start = Floats(random.Vector(5 * dim, -1, 1));
    std::vector<float> want = start, want_out(rows * dim);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t d = 0; d < dim; ++d) {
        want_out[r * dim + d] = table[tokens[r] * dim + d];
        want[tokens[r] * dim + d] += want_out[r * dim + d];
      }
    }
    testing::ForEachOrder([&] {
      std::vector<float> out(rows * dim, NAN), sum = start;
      DeviceMemory mem;
      float* out_at = mem.InOut(&out);
      EXPECT_TRUE(cuda::EmbeddingForward(mem.In(tokens), rows, mem.In(table),
                                         dim, out_at, nullptr)
                      .ok());
      EXPECT_TRUE(cuda::EmbeddingBackward(mem.In(tokens), rows, out_at, 5, dim,
                                          mem.InOut(&sum), nullptr)
                      .ok());
      mem.Finish();
      EXPECT_EQ(out, want_out);
      EXPECT_EQ(sum, want) << dim;
    });
  }
}

}  // namespace
}  // namespace carry
