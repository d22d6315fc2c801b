#include "tests/kernels/strided_copy_cases.h"

namespace carry {
namespace {

TEST(StridedCopy, MovesBoxes) {
  testing::ExpectStridedCopies([](StridedCopyArgs args, testing::BoxMemory& dst,
                                  testing::BoxMemory& src,
                                  const std::vector<uint8_t>& keep) {
    args.dst.data = dst.data();
    args.src.data = src.data();
    args.keep = keep.empty() ? nullptr : keep.data();
    StridedCopy(args);
  });
}

TEST(StridedCopy, NoSourceIsZeros) {
  std::vector<float> x = {1, 2, 3, 4};
  StridedCopyArgs args{};
  args.size[0] = args.size[1] = 1;
  args.size[2] = 2;
  args.dst = {x.data() + 1, DType::kF32, {0, 0, 1}};
  StridedCopy(args);
  EXPECT_EQ(x, (std::vector<float>{1, 0, 0, 4}));
}

}  // namespace
}  // namespace carry
