#include "framework/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace carry {
namespace {

void ExpectBlock(const PhiloxBlock& b, uint32_t w0, uint32_t w1, uint32_t w2,
                 uint32_t w3) {
  EXPECT_EQ(b.word[0], w0);
  EXPECT_EQ(b.word[1], w1);
  EXPECT_EQ(b.word[2], w2);
  EXPECT_EQ(b.word[3], w3);
}

// The known answers that the authors' own library (Random123) ships.
TEST(Random, PhiloxKnownAnswers) {
  ExpectBlock(Philox(0, 0, 0), 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8);
  ExpectBlock(Philox(~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}), 0x408f276d,
              0x41c83b0e, 0xa20bc7c6, 0x6d5451fd);
  ExpectBlock(
      Philox(0x299f31d0a4093822u, 0x0370734413198a2eu, 0x85a308d3243f6a88u),
      0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1);
}

TEST(Random, StreamOfIsFnv1a) {
  EXPECT_EQ(StreamOf(""), 0xcbf29ce484222325u);
  EXPECT_EQ(StreamOf("a"), 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(StreamOf("foobar"), 0x85944171f73967e8u);
}

TEST(Random, UniformMoments) {
  const int n = 200000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < n; ++i) {
    const double u = Uniform(7, 3, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 0.003);
  EXPECT_NEAR(squares / n - (sum / n) * (sum / n), 1.0 / 12, 0.001);
}

TEST(Random, NormalMoments) {
  const int n = 200000;
  double m[5] = {};
  for (int i = 0; i < n; ++i) {
    const double x = Normal(1, StreamOf("w"), i);
    ASSERT_TRUE(std::isfinite(x));
    double power = 1;
    for (int k = 1; k <= 4; ++k) m[k] += (power *= x) / n;
  }
  EXPECT_NEAR(m[1], 0, 0.01);
  EXPECT_NEAR(m[2], 1, 0.015);
  EXPECT_NEAR(m[3], 0, 0.04);
  EXPECT_NEAR(m[4], 3, 0.12);
}

TEST(Random, EverythingMatters) {
  const uint64_t base = RandomBits(1, 2, 3);
  EXPECT_EQ(base, RandomBits(1, 2, 3));
  for (int bit = 0; bit < 64; ++bit) {
    const uint64_t flip = uint64_t{1} << bit;
    EXPECT_NE(base, RandomBits(1 ^ flip, 2, 3));
    EXPECT_NE(base, RandomBits(1, 2 ^ flip, 3));
    EXPECT_NE(base, RandomBits(1, 2, 3 ^ flip));
  }
}

TEST(Random, UniformBelowCoversItsRange) {
  std::vector<int> seen(7);
  for (int i = 0; i < 7000; ++i) ++seen[UniformBelow(7, 5, 6, i)];
  for (const int count : seen) EXPECT_NEAR(count, 1000, 150);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(UniformBelow(1, 5, 6, i), 0u);
}

}  // namespace
}  // namespace carry
