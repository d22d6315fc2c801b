#include "kernels/checksum.h"

#include "kernels/parallel_for.h"
#include "tests/kernels/checksum_cases.h"

namespace carry {
namespace {

TEST(Checksum, IsTheSumOfItsTermsOnAnyNumberOfThreads) {
  const int before = NumThreads();
  for (int threads : {1, 3}) {
    SetNumThreads(threads);
    testing::ExpectChecksums([](const std::vector<float>& x, uint64_t seed) {
      return Checksum(x.data(), static_cast<int64_t>(x.size()), seed);
    });
  }
  SetNumThreads(before);
}

}  // namespace
}  // namespace carry
