#include "kernels/cuda/embedding.h"

#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/case_util.h"

namespace carry {
namespace {

using testing::DeviceMemory;
using testing::Floats;

struct Case {
  const char* name;
  int64_t vocab, rows, dim;
  int64_t distinct;  // Tokens that occur: the last so many.
};

class CudaEmbeddingTest : public ::testing::TestWithParam<Case> {};

TEST_P(CudaEmbeddingTest, GathersAndSumsInOrder) {
  const Case& c = GetParam();
  testing::Random random(1);
  std::vector<int32_t> tokens(c.rows);
  for (int32_t& token : tokens) {
    token = static_cast<int32_t>(random(c.vocab - c.distinct, c.vocab));
  }
  tokens[0] = static_cast<int32_t>(c.vocab - 1);
  const auto table = Floats(random.Vector(c.vocab * c.dim, -1, 1));
  const auto start = Floats(random.Vector(c.vocab * c.dim, -1, 1));
  std::vector<float> want = start, want_out(c.rows * c.dim);
  for (int64_t r = 0; r < c.rows; ++r) {
    for (int64_t d = 0; d < c.dim; ++d) {
      want_out[r * c.dim + d] = table[tokens[r] * c.dim + d];
      want[tokens[r] * c.dim + d] += want_out[r * c.dim + d];
    }
  }
  testing::ForEachOrder([&] {
    std::vector<float> out(c.rows * c.dim, NAN), sum = start;
    DeviceMemory mem;
    float* out_at = mem.InOut(&out);
    const int32_t* tokens_at = mem.In(tokens);
    EXPECT_TRUE(cuda::EmbeddingForward(tokens_at, c.rows, mem.In(table), c.dim,
                                       out_at, nullptr)
                    .ok());
    auto* room =
        mem.Scratch<int32_t>(cuda::EmbeddingBackwardWorkspace(c.rows, c.vocab));
    EXPECT_TRUE(cuda::EmbeddingBackward(tokens_at, c.rows, out_at, c.vocab,
                                        c.dim, mem.InOut(&sum), room, nullptr)
                    .ok());
    mem.Finish();
    EXPECT_EQ(out, want_out);
    EXPECT_EQ(sum, want);
  });
}

INSTANTIATE_TEST_SUITE_P(
    Table, CudaEmbeddingTest,
    ::testing::Values(Case{"OneRow", 1, 1, 1, 1},
                      Case{"OneToken", 9, 300, 7, 1},
                      Case{"FewTokens", 5, 306, 64, 5},
                      Case{"WideRows", 5, 40, 500, 3},
                      Case{"TwoDigits", 3000, 700, 3, 3000},
                      Case{"ThreeDigits", 70001, 2000, 1, 500},
                      Case{"FullDigit", 256, 1000, 2, 256}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace carry
