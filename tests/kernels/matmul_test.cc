#include "kernels/matmul.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "kernels/cpu/matmul_gradient_amx.h"
#include "kernels/cpu/matmul_thin.h"
#include "kernels/reference/matmul.h"
#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

using testing::Doubles;
using testing::ExpectClose;
using testing::Floats;
using testing::Matrix;

struct Case {
  const char* name;
  int64_t m, n, k;
  bool transpose_a = false, transpose_b = false;
  DType in = DType::kF32, out = DType::kF32;
  bool accumulate = false, bias = false;
  int64_t margin = 0;
};

constexpr DType kF32 = DType::kF32, kBF16 = DType::kBF16;

// NOLINTBEGIN: a table.
const Case kCases[] = {
    {"One", 1, 1, 1},
    {"Vector", 1, 130, 65, false, true},
    {"VectorBf16", 1, 130, 65, false, true, kBF16, kBF16},
    {"TwoRows", 2, 70, 48, false, true},
    {"Plain", 33, 20, 17},
    {"TransposeB", 33, 20, 17, false, true},
    {"TransposeA", 33, 20, 17, true, false},
    {"Both", 33, 20, 17, true, true},
    {"Accumulate", 40, 48, 33, true, false, kF32, kF32, true},
    {"Bias", 40, 48, 33, false, true, kF32, kF32, false, true},
    {"BiasAccumulate", 40, 48, 33, false, true, kF32, kF32, true, true},
    {"Strided", 40, 48, 33, false, true, kF32, kF32, false, true, 5},
    {"StridedTransposed", 40, 48, 33, true, false, kF32, kF32, true, false, 5},
    {"Bf16", 40, 48, 64, false, true, kBF16, kBF16},
    {"Bf16Odd", 33, 21, 17, false, true, kBF16, kBF16},
    {"Bf16ToFloat", 40, 48, 64, false, false, kBF16, kF32},
    {"Bf16WeightGradient", 40, 48, 64, true, false, kBF16, kF32, true},
    {"Bf16BiasStrided", 40, 48, 64, false, true, kBF16, kBF16, false, true, 4},
    {"LargeWeightGradient", 260, 272, 300, true, false, kF32, kF32, true, false,
     3},
    {"LargeBf16WeightGradient", 260, 272, 300, true, false, kBF16, kF32, true,
     false, 3},
    {"BiasedWeightGradientBf16", 1100, 257, 256, true, false, kBF16, kF32, true,
     true},
    {"Tiles", 40, 200, 100, false, true},
    {"TilesPlain", 40, 200, 100},
    {"TilesBf16", 40, 200, 100, false, true, kBF16, kBF16},
    {"TilesBf16Plain", 40, 200, 100, false, false, kBF16, kBF16},
    {"WholeTilesBf16", 40, 128, 64, false, true, kBF16, kBF16},
    {"WholeTilesBf16Plain", 40, 128, 64, false, false, kBF16, kBF16},
    {"DeepStridedBf16", 70, 96, 130, false, true, kBF16, kBF16, true, false, 7},
    // A step of 32 terms that lacks one.
    {"LacksOneTermBf16", 140, 300, 63, false, true, kBF16, kBF16},
    {"LacksOneTermBf16Plain", 35, 100, 63, false, false, kBF16, kF32, true},
    {"LacksOneTermBf16Deep", 140, 200, 1631, false, true, kBF16, kF32},
    {"LacksOneTermBf16Strided", 35, 200, 2399, false, false, kBF16, kBF16, true,
     true, 3},
    {"SlicesBf16", 130, 516, 6100, false, false, kBF16, kBF16},
    {"SlicesBf16BiasAccumulate", 128, 521, 4660, false, true, kBF16, kBF16,
     true, true, 5},
    {"SlicesBf16ToFloat", 140, 530, 4127, false, false, kBF16, kF32, true, true,
     3},
    {"ThinWeightGradient", 275, 33, 1100, true, false, kF32, kF32, true, false,
     5},
    {"ThinWeightGradientBf16", 275, 48, 1030, true, false, kBF16, kF32, true,
     false, 5},
    {"SmallWeightGradientBf16", 80, 272, 1100, true, false, kBF16, kF32, true,
     false, 4},
    {"DeepWeightGradient", 260, 272, 1800, true, false, kF32, kF32, true, false,
     3},
    {"DeepWeightGradientBf16", 260, 272, 1333, true, false, kBF16, kF32, true,
     false, 3},
    {"FirstThinWeightGradient", 275, 33, 1100, true, false, kF32, kF32, false,
     false, 5},
    {"FirstDeepWeightGradientBf16", 260, 272, 1333, true, false, kBF16, kF32,
     false, false, 3},
    {"ShallowWeightGradientBf16", 700, 257, 70, true, false, kBF16, kF32, true},
    {"OneTokenGradientBf16", 1, 1, 1, true, false, kBF16, kF32, true},
    {"OddTokensGradientBf16", 17, 33, 31, true, false, kBF16, kF32, false,
     false, 3},
    {"TwoTilesGradientBf16", 31, 7, 40, true, false, kBF16, kF32, true, false,
     1},
    {"ThreeTilesGradientBf16", 203, 48, 129, true, false, kBF16, kF32, true,
     false, 5},
    {"FourTilesGradientBf16", 64, 300, 100, true, false, kBF16, kF32, false},
    {"FiveTilesGradientBf16", 80, 203, 65, true, false, kBF16, kF32, true,
     false, 7},
    {"SlicedGradientBf16", 48, 1600, 333, true, false, kBF16, kF32, false,
     false, 1},
    {"BlocksGradientBf16", 203, 805, 1105, true, false, kBF16, kF32, true,
     false, 3},
    {"BlocksDownGradientBf16", 505, 401, 1105, true, false, kBF16, kF32, false,
     false, 3},
    {"ShortSums", 100, 300, 48, false, true, kBF16, kBF16, false, false, 5},
    {"ShortSumsPlain", 130, 263, 80, false, false, kBF16, kBF16, true, true, 3},
    {"ShortSumsToFloat", 64, 256, 128, false, true, kBF16, kF32, true, true},
    {"ShorterSums", 33, 272, 2, false, true, kBF16, kF32},
    {"OddSums", 33, 272, 47, false, true, kBF16, kBF16},
    {"Rank", 70, 96, 3, false, true},
    {"RankBf16", 70, 96, 3, false, true, kBF16, kBF16},
};
// NOLINTEND

Doubles Inputs(int seed, int64_t n, DType dtype) {
  testing::Random random(seed);
  return random.Vector(n, -1, 1, dtype);
}

Doubles Want(const Case& c, const Doubles& a, const Doubles& b,
             const Doubles& bias, double start) {
  Doubles want =
      reference::MatMul(a, c.transpose_a, b, c.transpose_b, c.m, c.n, c.k);
  for (int64_t i = 0; i < c.m * c.n; ++i) {
    if (c.bias) want[i] += bias[i % c.n];
    if (c.accumulate) want[i] += start;
  }
  return want;
}

class MatMulTest : public ::testing::TestWithParam<Case> {};

TEST_P(MatMulTest, IsTheOracles) {
  const Case& c = GetParam();
  const Doubles a = Inputs(1, c.m * c.k, c.in);
  const Doubles b = Inputs(2, c.n * c.k, c.in);
  const Doubles bias = Inputs(3, c.n, kF32);
  const std::vector<float> bias_floats = Floats(bias);
  Matrix am(a, c.transpose_a ? c.k : c.m, c.transpose_a ? c.m : c.k, c.in,
            c.margin);
  Matrix bm(b, c.transpose_b ? c.n : c.k, c.transpose_b ? c.k : c.n, c.in,
            c.margin);
  const Doubles want = Want(c, a, b, bias, 0.5);
  const auto run = [&] {
    for (int threads : {1, 2}) {
      const testing::WithThreads with(threads);
      Matrix cm(Doubles(c.m * c.n, 0.5), c.m, c.n, c.out, c.margin);
      MatMul({am.view(), c.transpose_a, bm.view(), c.transpose_b, cm.view(),
              c.accumulate ? Write::kAccumulate : Write::kOverwrite,
              c.bias ? bias_floats.data() : nullptr});
      ExpectClose("c", cm.values(), want, testing::WithRounding(2e-6, c.out));
      EXPECT_TRUE(cm.MarginsUntouched());
    }
  };
  // Only the best target multiplies weight gradients in AMX tiles.
  c.transpose_a ? testing::ForEachTarget(run) : run();
}

INSTANTIATE_TEST_SUITE_P(Table, MatMulTest, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

// The cases of the table with a plain A; `vectors`: only x W^T.
std::vector<Case> PackedCases(bool vectors) {
  std::vector<Case> cases;
  for (const Case& c : kCases) {
    if (!c.transpose_a && (c.transpose_b || !vectors)) cases.push_back(c);
  }
  return cases;
}

// The same through a packed weight, from fp32.
class PackedMatMulTest : public ::testing::TestWithParam<Case> {
 protected:
  PackedMatMulTest()
      : b_(Inputs(2, GetParam().n * GetParam().k, GetParam().in)),
        bias_(Inputs(3, GetParam().n, kF32)),
        weight_(b_, Rows(), Cols(), kF32, GetParam().margin) {}

  static int64_t Rows() {
    return GetParam().transpose_b ? GetParam().n : GetParam().k;
  }
  static int64_t Cols() {
    return GetParam().transpose_b ? GetParam().k : GetParam().n;
  }

  void ExpectOracle(const PackedWeight& packed, int64_t m) const {
    Case c = GetParam();
    c.m = m;
    const std::vector<float> bias = Floats(bias_);
    const Doubles a = Inputs(1, m * c.k, c.in);
    Matrix am(a, m, c.k, c.in, c.margin);
    Matrix cm(Doubles(m * c.n, 0.5), m, c.n, c.out, c.margin);
    MatMul(am.view(), packed, cm.view(),
           c.accumulate ? Write::kAccumulate : Write::kOverwrite,
           c.bias ? bias.data() : nullptr);
    ExpectClose("c", cm.values(), Want(c, a, b_, bias_, 0.5),
                testing::WithRounding(2e-6, c.out));
    EXPECT_TRUE(cm.MarginsUntouched());
  }

  Doubles b_, bias_;
  Matrix weight_;
};

// For several numbers of rows, and after other values were packed. Only the
// best target multiplies short sums in AMX tiles.
TEST_P(PackedMatMulTest, IsTheOracles) {
  const Case& c = GetParam();
  Matrix other(Inputs(4, c.n * c.k, kF32), Rows(), Cols(), kF32);
  const auto run = [&] {
    PackedWeight packed(other.view(), c.transpose_b, c.in, c.m);
    packed.Update(weight_.view());
    EXPECT_GE(packed.bytes(), c.n * c.k * SizeOf(c.in));
    for (int64_t m : {c.m, int64_t{1}, int64_t{2}, int64_t{17}}) {
      ExpectOracle(packed, m);
    }
  };
  c.k <= kMaxThinDepth ? testing::ForEachTarget(run) : run();
}

INSTANTIATE_TEST_SUITE_P(Table, PackedMatMulTest,
                         ::testing::ValuesIn(PackedCases(false)),
                         [](const auto& info) { return info.param.name; });

struct Pair {
  const char* name;
  int64_t n, k;
  DType dtype;
};
class PackedPairTest : public ::testing::TestWithParam<Pair> {};

// Both packs at once hold what each holds by itself.
TEST_P(PackedPairTest, IsTheSameAsOneByOne) {
  const auto& [name, n, k, dtype] = GetParam();
  const int64_t rows = 130;
  Matrix zeros(Doubles(n * k, 0), n, k, kF32);
  Matrix w(Inputs(2, n * k, kF32), n, k, kF32, 3);
  Matrix x(Inputs(1, rows * k, dtype), rows, k, dtype);
  Matrix dy(Inputs(4, rows * n, dtype), rows, n, dtype);
  for (int threads : {1, 2, 3}) {
    const testing::WithThreads with(threads);
    PackedWeight y(zeros.view(), true, dtype, rows);
    PackedWeight dx(zeros.view(), false, dtype, rows);
    PackedWeight::UpdateBoth(w.view(), &y, &dx);
    const PackedWeight y1(w.view(), true, dtype, rows);
    const PackedWeight dx1(w.view(), false, dtype, rows);
    Matrix a(rows, n, kF32), b(rows, n, kF32);
    MatMul(x.view(), y, a.view(), Write::kOverwrite, nullptr);
    MatMul(x.view(), y1, b.view(), Write::kOverwrite, nullptr);
    EXPECT_EQ(a.values(), b.values());
    Matrix c(rows, k, kF32), d(rows, k, kF32);
    MatMul(dy.view(), dx, c.view(), Write::kOverwrite, nullptr);
    MatMul(dy.view(), dx1, d.view(), Write::kOverwrite, nullptr);
    EXPECT_EQ(c.values(), d.values());
  }
}

// NOLINTBEGIN: a table.
INSTANTIATE_TEST_SUITE_P(
    Table, PackedPairTest,
    ::testing::Values(Pair{"Small", 40, 33, kBF16},
                      Pair{"Rows", 1450, 768, kBF16},
                      Pair{"RowsFp32", 1450, 768, kF32},
                      Pair{"SlicesOfRows", 6200, 520, kBF16},
                      Pair{"SlicesOfColumns", 1000, 6100, kBF16},
                      Pair{"LacksOneRow", 2079, 700, kBF16},
                      Pair{"LacksOneColumn", 700, 2079, kBF16},
                      Pair{"Thin", 3000, 48, kBF16}),
    [](const auto& info) { return info.param.name; });
// NOLINTEND

// Weights that were packed for a few rows: their own kernel, on every target.
class FewRowsMatMulTest : public PackedMatMulTest {};

TEST_P(FewRowsMatMulTest, IsTheOracles) {
  const PackedWeight packed(weight_.view(), true, GetParam().in, 1);
  testing::ForEachTarget([&] {
    for (int64_t m : {1, 2, 3, 4, 5}) ExpectOracle(packed, m);
  });
}

INSTANTIATE_TEST_SUITE_P(Table, FewRowsMatMulTest,
                         ::testing::ValuesIn(PackedCases(true)),
                         [](const auto& info) { return info.param.name; });

// What lies beyond a row's K belongs to somebody else.
TEST(ThinProduct, ReadsNothingBeyondARow) {
  constexpr int64_t kRows = 40, kOut = 256, kDepth = 48, kStride = 64;
  std::vector<BFloat16> x(kRows * kStride,
                          ToBFloat16(std::numeric_limits<float>::quiet_NaN()));
  for (int64_t i = 0; i < kRows; ++i) {
    std::fill_n(x.begin() + i * kStride, kDepth, ToBFloat16(1));
  }
  Matrix w(Inputs(2, kOut * kDepth, kF32), kOut, kDepth, kF32);
  const PackedWeight packed(w.view(), true, kBF16, kRows);
  Matrix y(kRows, kOut, kF32);
  MatMul({x.data(), kBF16, kRows, kDepth, kStride}, packed, y.view(),
         Write::kOverwrite, nullptr);
  for (double v : y.values()) ASSERT_TRUE(std::isfinite(v));
}

// Nor need there be any memory behind the last row.
TEST(ThinProduct, ReadsNothingBehindTheLastRow) {
  constexpr int64_t kRows = 37, kOut = 256, kDepth = 48;
  const int64_t page = sysconf(_SC_PAGESIZE);
  auto* pages =
      static_cast<char*>(mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(pages, MAP_FAILED);
  ASSERT_EQ(mprotect(pages + page, page, PROT_NONE), 0);
  const int64_t bytes = kRows * kDepth * SizeOf(kBF16);
  ASSERT_LE(bytes, page);
  Matrix w(Inputs(2, kOut * kDepth, kF32), kOut, kDepth, kF32);
  const PackedWeight packed(w.view(), true, kBF16, kRows);
  Matrix y(kRows, kOut, kF32);
  MatMul({pages + page - bytes, kBF16, kRows, kDepth, kDepth}, packed, y.view(),
         Write::kOverwrite, nullptr);
  for (double v : y.values()) ASSERT_EQ(v, 0);
  munmap(pages, 2 * page);
}

TEST(TileGradient, RunsWhereTheCpuHasAmx) {
  std::ifstream file("/proc/cpuinfo");
  const std::string info((std::istreambuf_iterator<char>(file)),
                         std::istreambuf_iterator<char>());
  const bool amx = info.find(" amx_bf16") != std::string::npos;
  EXPECT_EQ(HasTileGradient(), amx);
  EXPECT_EQ(TakesThinProduct(1536, 48), amx);
  testing::ForEachTarget([&] {
    EXPECT_EQ(HasTileGradient(), amx && hwy::SupportedTargets() <= HWY_AVX3);
  });
}

TEST(TileGradient, DoesNotDependOnThreads) {
  for (const auto& [m, n, k] :
       {std::array{80, 700, 300}, {700, 48, 300}, {400, 420, 1100}}) {
    Matrix dy(Inputs(1, k * m, kBF16), k, m, kBF16);
    Matrix x(Inputs(2, k * n, kBF16), k, n, kBF16);
    const auto run = [&, m = m, n = n](int threads) {
      const testing::WithThreads with(threads);
      Matrix c(Doubles(m * n, 0.5), m, n, kF32);
      MatMul({dy.view(), true, x.view(), false, c.view(), Write::kAccumulate});
      return c.values();
    };
    const Doubles one = run(1);
    if (!HasTileGradient()) continue;
    EXPECT_EQ(run(2), one);
    EXPECT_EQ(run(3), one);
  }
}

TEST(MatMul, EmptyInnerDimensionGivesTheBias) {
  std::vector<float> c = {1, 2, 3, 4};
  const float bias[] = {10, 20};
  float dummy = 0;
  MatMulArgs args;
  args.a = {&dummy, kF32, 2, 0, 1};
  args.b = {&dummy, kF32, 0, 2, 2};
  args.c = {c.data(), kF32, 2, 2, 2};
  args.bias = bias;
  MatMul(args);
  EXPECT_EQ(c, (std::vector<float>{10, 20, 10, 20}));
}

TEST(MatMul, TwoThreadsOfTheCaller) {
  const Case c = {"", 40, 48, 33, false, true};
  const Doubles a = Inputs(1, c.m * c.k, kF32), b = Inputs(2, c.n * c.k, kF32);
  const Doubles want = Want(c, a, b, {}, 0);
  Matrix bm(b, c.n, c.k, kF32);
  const PackedWeight packed(bm.view(), true, kF32, c.m);
  const auto run = [&] {
    SetNumThreads(1);
    Matrix am(a, c.m, c.k, kF32), cm(c.m, c.n, kF32);
    for (int i = 0; i < 20; ++i) {
      MatMul(am.view(), packed, cm.view(), Write::kOverwrite, nullptr);
    }
    ExpectClose("c", cm.values(), want, 2e-6);
  };
  std::thread one(run), two(run);
  one.join();
  two.join();
}

}  // namespace
}  // namespace carry
