#include "kernels/embedding.h"

#include "tests/kernels/kernel_test_util.h"

namespace carry {
namespace {

TEST(Embedding, GathersAndSumsInOrder) {
  for (int64_t dim : {1, 7, 64, 130, 500}) {
    const std::vector<int32_t> tokens = {3, 0, 3, 3, 4, 0};
    testing::Random random(1);
    const auto table = testing::Floats(random.Vector(5 * dim, -1, 1));
    std::vector<float> out(6 * dim);
    EmbeddingForward(tokens.data(), 6, table.data(), dim, out.data());
    auto dtable = testing::Floats(random.Vector(5 * dim, -1, 1));
    auto want = dtable;
    for (int64_t r = 0; r < 6; ++r) {
      for (int64_t d = 0; d < dim; ++d) {
        EXPECT_EQ(out[r * dim + d], table[tokens[r] * dim + d]);
        want[tokens[r] * dim + d] += out[r * dim + d];
      }
    }
    for (int threads : {1, 2, 5}) {
      const testing::WithThreads with(threads);
      auto sum = dtable;
      EmbeddingBackward(tokens.data(), 6, out.data(), 5, dim, sum.data());
      EXPECT_EQ(sum, want) << dim;
    }
  }
}

}  // namespace
}  // namespace carry
