#include "kernels/cuda/elementwise.h"

#include "kernels/cuda/checksum.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/case_util.h"
#include "tests/kernels/checksum_cases.h"

namespace carry {
namespace {

using testing::DeviceMemory;
using testing::Doubles;
using testing::Floats;
using testing::Matrix;

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

TEST_P(CudaElementwiseTest, AddToAddsBothTypes) {
  const int64_t n = GetParam();
  testing::Random random(5);
  const std::vector<float> x = Floats(random.Vector(n, -1, 1));
  std::vector<BFloat16> half(n);
  for (int64_t i = 0; i < n; ++i) half[i] = ToBFloat16(x[i]);
  std::vector<float> sum = x;
  DeviceMemory mem;
  float* sum_at = mem.InOut(&sum);
  EXPECT_TRUE(cuda::AddTo(sum_at, mem.In(x), DType::kF32, n, nullptr).ok());
  EXPECT_TRUE(cuda::AddTo(sum_at, mem.In(half), DType::kBF16, n, nullptr).ok());
  mem.Finish();
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(sum[i], 2 * x[i] + ToFloat(half[i]));
  }
}

TEST_P(CudaElementwiseTest, NegativeExpIsTheNearestFloat) {
  const int64_t n = GetParam();
  testing::Random random(5);
  std::vector<float> x = Floats(random.Vector(n, -20, 20)), y(n, 1.0f);
  const float odd[] = {0.0f, -0.0f, 88.8f, 89.0f, INFINITY, -INFINITY, -103.5f};
  for (int64_t i = 0; i < std::min<int64_t>(n, 7); ++i) x[i] = odd[i];
  x[n - 1] = NAN;
  DeviceMemory mem;
  EXPECT_TRUE(cuda::NegativeExp(mem.In(x), mem.InOut(&y), n, nullptr).ok());
  mem.Finish();
  EXPECT_TRUE(std::isnan(y[n - 1]));
  for (int64_t i = 0; i < n - 1; ++i) {
    EXPECT_EQ(y[i], static_cast<float>(-std::exp(static_cast<double>(x[i]))));
  }
}

TEST_P(CudaElementwiseTest, AddProduct) {
  const int64_t n = GetParam();
  testing::Random random(5);
  const auto a = Floats(random.Vector(n, -1, 1));
  const auto b = Floats(random.Vector(n, -3, 3));
  std::vector<float> dst(n, 0.25f);
  DeviceMemory mem;
  EXPECT_TRUE(
      cuda::AddProduct(mem.InOut(&dst), mem.In(a), mem.In(b), n, nullptr).ok());
  mem.Finish();
  for (int64_t i = 0; i < n; ++i) {
    // Rounded once or twice.
    EXPECT_NEAR(dst[i], 0.25 + double{a[i]} * b[i], 4e-7);
  }
}

TEST_P(CudaElementwiseTest, FirstNonFinite) {
  const int64_t n = GetParam();
  testing::ForEachOrder([&] {
    testing::Random random(5);
    std::vector<float> x = Floats(random.Vector(n, -1, 1));
    const auto first = [&](DType type) {
      std::vector<BFloat16> half(n);
      for (int64_t i = 0; i < n; ++i) half[i] = ToBFloat16(x[i]);
      std::vector<int64_t> result(1, 99);
      DeviceMemory mem;
      const void* data = type == DType::kF32
                             ? static_cast<const void*>(mem.In(x))
                             : mem.In(half);
      int64_t* room = mem.Scratch<int64_t>(cuda::FirstNonFiniteWorkspace(n));
      EXPECT_TRUE(
          cuda::FirstNonFinite(data, type, n, mem.InOut(&result), room, nullptr)
              .ok());
      mem.Finish();
      return result[0];
    };
    x[0] = 3.4e38f;  // Finite, and infinite as bf16.
    EXPECT_EQ(first(DType::kF32), -1);
    EXPECT_EQ(first(DType::kBF16), 0);
    x[0] = 1;
    EXPECT_EQ(first(DType::kBF16), -1);
    for (int64_t place : {n - 1, n / 2, int64_t{0}}) {
      x[place] = place % 2 == 0 ? NAN : -INFINITY;
      EXPECT_EQ(first(DType::kF32), place);
      EXPECT_EQ(first(DType::kBF16), place);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaElementwiseTest,
                         ::testing::Values(1, 15, 33, 1000, 40000));

// More elements than a grid has threads.
TEST(CudaElementwise, LoopsBeyondTheGrid) {
  const int64_t n = (1 << 22) + 5;
  std::vector<float> x(n, 1.0f);
  DeviceMemory mem;
  const float* ones = mem.In(x);
  EXPECT_TRUE(cuda::AddTo(mem.InOut(&x), ones, DType::kF32, n, nullptr).ok());
  mem.Finish();
  EXPECT_EQ(std::count(x.begin(), x.end(), 2.0f), n);
  // Two of one thread.
  x[3] = x[3 + 2048 * 256] = NAN;
  std::vector<int64_t> first(1);
  DeviceMemory again;
  auto* room = again.Scratch<int64_t>(cuda::FirstNonFiniteWorkspace(n));
  EXPECT_TRUE(cuda::FirstNonFinite(again.In(x), DType::kF32, n,
                                   again.InOut(&first), room, nullptr)
                  .ok());
  again.Finish();
  EXPECT_EQ(first[0], 3);
}

struct Shape {
  int64_t rows, cols;
};
class CudaMatrixTest : public ::testing::TestWithParam<Shape> {
 protected:
  const int64_t rows_ = GetParam().rows, cols_ = GetParam().cols;
  testing::Random random_{8};
  Doubles Values(double size) {
    return random_.Vector(rows_ * cols_, -size, size, DType::kBF16);
  }
};
constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

TEST_P(CudaMatrixTest, AddColumnSums) {
  const Doubles values = Values(1);
  for (DType type : kTypes) {
    std::vector<float> first;
    testing::ForEachOrder([&] {
      Matrix x(values, rows_, cols_, type, 3);
      std::vector<float> sums(cols_, 0.5f);
      DeviceMemory mem;
      float* room =
          mem.Scratch<float>(cuda::AddColumnSumsWorkspace(rows_, cols_));
      EXPECT_TRUE(cuda::AddColumnSums(mem.In(ConstMatView(x.view())),
                                      mem.InOut(&sums), room, nullptr)
                      .ok());
      mem.Finish();
      for (int64_t c = 0; c < cols_; ++c) {
        double want = 0.5;
        for (int64_t r = 0; r < rows_; ++r) want += values[r * cols_ + c];
        // A sum of rounded sums.
        EXPECT_NEAR(sums[c], want, 1e-6 * (1 + std::sqrt(rows_)));
      }
      if (first.empty()) first = sums;
      EXPECT_EQ(sums, first);
    });
  }
}

TEST_P(CudaMatrixTest, AddRow) {
  const Doubles values = Values(1);
  const Doubles row = random_.Vector(cols_, -1, 1);
  for (DType type : kTypes) {
    Matrix y(values, rows_, cols_, type, 3);
    const std::vector<float> floats = Floats(row);
    DeviceMemory mem;
    EXPECT_TRUE(
        cuda::AddRow(mem.InOut(y.view()), mem.In(floats), nullptr).ok());
    mem.Finish();
    const Doubles got = y.values();
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i],
                testing::Round(
                    static_cast<float>(values[i]) + floats[i % cols_], type));
    }
    EXPECT_TRUE(y.MarginsUntouched());
  }
}

TEST_P(CudaMatrixTest, AddMatrixRoundsToTheTypeOfTheSum) {
  const Doubles a = Values(4), b = Values(1);
  for (DType to : kTypes) {
    for (DType from : kTypes) {
      Matrix dst(a, rows_, cols_, to, 3), src(b, rows_, cols_, from, 5);
      DeviceMemory mem;
      EXPECT_TRUE(cuda::AddMatrix(mem.InOut(dst.view()),
                                  mem.In(ConstMatView(src.view())), nullptr)
                      .ok());
      mem.Finish();
      const Doubles got = dst.values();
      for (size_t i = 0; i < a.size(); ++i) {
        ASSERT_EQ(got[i], testing::Round(a[i] + b[i], to)) << i;
      }
      EXPECT_TRUE(dst.MarginsUntouched());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaMatrixTest,
                         ::testing::Values(Shape{1, 1}, Shape{9, 600},
                                           Shape{700, 33}, Shape{65, 32},
                                           Shape{17000, 1}));

TEST(CudaChecksum, IsTheSumOfItsTerms) {
  testing::ExpectChecksums([](const std::vector<float>& x, uint64_t seed) {
    const auto n = static_cast<int64_t>(x.size());
    std::vector<uint64_t> out(1);
    DeviceMemory mem;
    auto* room = mem.Scratch<uint64_t>(cuda::ChecksumWorkspace(n));
    EXPECT_TRUE(
        cuda::Checksum(mem.In(x), n, seed, mem.InOut(&out), room, nullptr)
            .ok());
    mem.Finish();
    return out[0];
  });
}

}  // namespace
}  // namespace carry
