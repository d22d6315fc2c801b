#include "kernels/elementwise.h"

#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

class ElementwiseTest : public ::testing::TestWithParam<int64_t> {
 protected:
  std::vector<float> Values(double scale = 1) {
    testing::Random random(5);
    return testing::Floats(random.Vector(GetParam(), -scale, scale));
  }
};

TEST_P(ElementwiseTest, CastRoundsToNearestEven) {
  const int64_t n = GetParam();
  std::vector<float> x = Values(100);
  const float odd[] = {NAN,         -NAN,        INFINITY, -INFINITY, 3.4e38f,
                       1.00390625f, 1.01171875f, -0.0f,    1.2e-38f};
  for (int64_t i = 0; i < std::min<int64_t>(n, 9); ++i) x[i] = odd[i];
  testing::ForEachTarget([&] {
    std::vector<BFloat16> half(n);
    Cast(x.data(), DType::kF32, half.data(), DType::kBF16, n);
    std::vector<float> back(n);
    Cast(half.data(), DType::kBF16, back.data(), DType::kF32, n);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(half[i].bits, ToBFloat16(x[i]).bits) << x[i];
      if (std::isnan(x[i])) continue;
      EXPECT_EQ(back[i], ToFloat(half[i]));
    }
  });
}

TEST_P(ElementwiseTest, AddAndScale) {
  const int64_t n = GetParam();
  const std::vector<float> x = Values();
  testing::ForEachTarget([&] {
    std::vector<float> sum = x;
    AddTo(sum.data(), x.data(), DType::kF32, n);
    std::vector<BFloat16> half(n);
    Cast(x.data(), DType::kF32, half.data(), DType::kBF16, n);
    AddTo(sum.data(), half.data(), DType::kBF16, n);
    Scale(sum.data(), 0.5f, n);
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(sum[i], (2 * x[i] + ToFloat(half[i])) * 0.5f);
    }
  });
}

TEST_P(ElementwiseTest, FirstNonFinite) {
  const int64_t n = GetParam();
  testing::ForEachTarget([&] {
    std::vector<float> x = Values();
    EXPECT_EQ(FirstNonFinite(x.data(), DType::kF32, n), -1);
    for (int64_t place : {n - 1, n / 2, int64_t{0}}) {
      x[place] = place % 2 == 0 ? NAN : -INFINITY;
      EXPECT_EQ(FirstNonFinite(x.data(), DType::kF32, n), place);
      std::vector<BFloat16> half(n);
      Cast(x.data(), DType::kF32, half.data(), DType::kBF16, n);
      EXPECT_EQ(FirstNonFinite(half.data(), DType::kBF16, n), place);
    }
  });
}

TEST_P(ElementwiseTest, NegativeExpIsTheNearestFloat) {
  const int64_t n = GetParam();
  std::vector<float> x = Values(20), y(n);
  const float odd[] = {0.0f, -0.0f, 88.8f, 89.0f, INFINITY, -INFINITY, -103.5f};
  for (int64_t i = 0; i < std::min<int64_t>(n, 7); ++i) x[i] = odd[i];
  NegativeExp(x.data(), y.data(), n);
  for (int64_t i = 0; i < n; ++i) {
    EXPECT_EQ(y[i], static_cast<float>(-std::exp(static_cast<double>(x[i]))));
  }
  x[0] = NAN;
  NegativeExp(x.data(), y.data(), 1);
  EXPECT_TRUE(std::isnan(y[0]));
}

TEST_P(ElementwiseTest, AddProduct) {
  const int64_t n = GetParam();
  const std::vector<float> a = Values(), b = Values(3), start(n, 0.25f);
  testing::ForEachTarget([&] {
    std::vector<float> dst = start;
    AddProduct(dst.data(), a.data(), b.data(), n);
    for (int64_t i = 0; i < n; ++i) {
      // Rounded once or twice.
      EXPECT_NEAR(dst[i], 0.25 + double{a[i]} * b[i], 4e-7);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Sizes, ElementwiseTest,
                         ::testing::Values(1, 15, 16, 33, 1000, 40000));

TEST(AddColumnSums, AddsRowsInOrder) {
  testing::Random random(3);
  const int64_t rows = 9, cols = 600;
  const testing::Doubles values =
      random.Vector(rows * cols, -1, 1, DType::kBF16);
  testing::ForEachTarget([&] {
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      testing::Matrix x(values, rows, cols, dtype, 3);
      std::vector<float> sums(cols, 0.5f);
      AddColumnSums(x.view(), sums.data());
      for (int64_t c = 0; c < cols; ++c) {
        float want = 0.5f;
        for (int64_t r = 0; r < rows; ++r) want += values[r * cols + c];
        EXPECT_EQ(sums[c], want);
      }
    }
  });
}

TEST(AddMatrix, RoundsToTheTypeOfTheSum) {
  const DType types[] = {DType::kF32, DType::kBF16};
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 1}, {37, 61}, {3, 20000}, {500, 64}}) {
    testing::Random random(8);
    const testing::Doubles a = random.Vector(rows * cols, -4, 4, DType::kBF16);
    const testing::Doubles b = random.Vector(rows * cols, -1, 1, DType::kBF16);
    for (DType to : types) {
      for (DType from : types) {
        testing::ForEachTarget([&, rows = rows, cols = cols] {
          testing::Matrix dst(a, rows, cols, to, 3);
          testing::Matrix src(b, rows, cols, from, 5);
          AddMatrix(dst.view(), src.view());
          const testing::Doubles got = dst.values();
          for (size_t i = 0; i < a.size(); ++i) {
            ASSERT_EQ(got[i], testing::Round(a[i] + b[i], to)) << i;
          }
          EXPECT_TRUE(dst.MarginsUntouched());
        });
      }
    }
  }
}

TEST(TransposeBf16, MovesEveryElement) {
  testing::ForEachTarget([] {
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 5},
                                     {8, 8},
                                     {45, 70},
                                     {64, 32},
                                     {2048, 1100}}) {
      testing::Random random(1);
      const testing::Doubles x =
          random.Vector(rows * cols, -1, 1, DType::kBF16);
      testing::Matrix m(x, rows, cols, DType::kBF16, 3);
      // On a cache line, as what goes past the caches must be.
      std::vector<BFloat16> space(rows * cols + 32);
      BFloat16* y = space.data();
      while (reinterpret_cast<uintptr_t>(y) % 64 != 0) ++y;
      TransposeBf16(m.view(), y);
      int64_t wrong = 0;
      for (int64_t i = 0; i < rows * cols; ++i) {
        wrong += ToFloat(y[i % cols * rows + i / cols]) != x[i];
      }
      EXPECT_EQ(wrong, 0) << rows << " x " << cols;
    }
  });
}

TEST(Transpose, MovesEveryElement) {
  for (const auto& [rows, cols] :
       {std::pair<int64_t, int64_t>{1, 5}, {33, 70}, {64, 32}}) {
    std::vector<float> x(rows * cols), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = i;
    Transpose(x.data(), rows, cols, y.data());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols; ++c) {
        EXPECT_EQ(y[c * rows + r], x[r * cols + c]);
      }
    }
  }
}

}  // namespace
}  // namespace carry
