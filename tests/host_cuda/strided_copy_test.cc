#include "kernels/cuda/strided_copy.h"

#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/strided_copy_cases.h"

namespace carry {
namespace {

TEST(CudaStridedCopy, MovesBoxes) {
  testing::ForEachOrder([] {
    testing::ExpectStridedCopies(
        [](StridedCopyArgs args, testing::BoxMemory& dst,
           testing::BoxMemory& src, const std::vector<uint8_t>& keep) {
          testing::DeviceMemory mem;
          args.dst.data =
              mem.InOut(static_cast<char*>(dst.data()), dst.bytes());
          args.src.data = const_cast<char*>(
              mem.In(static_cast<const char*>(src.data()), src.bytes()));
          args.keep = mem.In(keep);
          EXPECT_TRUE(cuda::StridedCopy(args, nullptr).ok());
          mem.Finish();
        });
  });
}

}  // namespace
}  // namespace carry
