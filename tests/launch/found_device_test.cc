#include "launch/found_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace carry {
namespace {

using config::Recipe;
using testing::HasSubstr;
using testing::StartsWith;

constexpr char kNone[] = "no driver; install one, or set device: CPU";

FoundDevice None() { return {kNone, "", ""}; }
FoundDevice Gpu(const std::string& place, const std::string& model = "H100") {
  return {"", place, model};
}

std::string Error(const std::vector<FoundDevice>& all,
                  Recipe::Device wanted = Recipe::CUDA) {
  const absl::Status status = CheckDevices(all, wanted);
  EXPECT_TRUE(status.ok() || absl::IsFailedPrecondition(status)) << status;
  return std::string(status.message());
}

TEST(CheckDevicesTest, OneGpuARankIsRight) {
  for (const auto wanted : {Recipe::AUTO, Recipe::CUDA}) {
    EXPECT_EQ(Error({Gpu("0 of a")}, wanted), "");
    EXPECT_EQ(Error({Gpu("0 of a"), Gpu("1 of a"), Gpu("0 of b")}, wanted), "");
  }
}

TEST(CheckDevicesTest, NoGpuIsRightWhereNoneWasAskedFor) {
  EXPECT_EQ(Error({None()}, Recipe::AUTO), "");
  EXPECT_EQ(Error({None(), None(), None()}, Recipe::AUTO), "");
  EXPECT_EQ(Error({None()}), kNone);
  EXPECT_EQ(Error({None(), None()}), std::string("rank 0: ") + kNone);
}

TEST(CheckDevicesTest, SomeRanksWithoutAreNamed) {
  for (const auto wanted : {Recipe::AUTO, Recipe::CUDA}) {
    const std::string error =
        Error({Gpu("0 of a"), Gpu("1 of a"), None(), None()}, wanted);
    EXPECT_THAT(error, StartsWith(std::string("rank 2: ") + kNone));
    EXPECT_THAT(error, HasSubstr("other ranks have a GPU: start all ranks on"));
    EXPECT_THAT(Error({None(), Gpu("0 of a")}, wanted), StartsWith("rank 0: "));
  }
}

TEST(CheckDevicesTest, SharedGpusAreNamed) {
  const std::string error =
      Error({Gpu("0 of a"), Gpu("1 of a"), Gpu("0 of b"), Gpu("1 of a")});
  EXPECT_THAT(error, StartsWith("ranks 1 and 3 would share 1 of a; start no"));
  EXPECT_THAT(error, HasSubstr("ppr:N:node"));
}

TEST(CheckDevicesTest, OtherModelsAreNamed) {
  const std::string error =
      Error({Gpu("0 of a"), Gpu("1 of a"), Gpu("0 of b", "A100")});
  EXPECT_THAT(error, StartsWith("rank 0 has a GPU of model H100, rank 2 one of "
                                "A100; choose"));
  EXPECT_THAT(error, HasSubstr("CUDA_VISIBLE_DEVICES"));
}

TEST(CheckBatchForGpuTest, NoMoreSequencesAtOnceThanAGridHasRows) {
  struct Case {
    int64_t batch, micro, data;
    const char* wanted;  // "": few enough
  };
  for (const Case& c :
       {Case{8, 0, 1, ""}, Case{65535, 0, 1, ""}, Case{1000000, 65535, 1, ""},
        Case{131070, 0, 2, ""}, Case{65536, 0, 1, "65536 are"},
        Case{1000000, 65536, 1, "65536 are"},
        Case{131071, 100000, 2, "65536 are"}}) {
    Recipe recipe;
    recipe.mutable_training()->set_batch_size(c.batch);
    recipe.mutable_training()->set_micro_batch_size(c.micro);
    recipe.mutable_training()->set_sequence_length(4);
    recipe.mutable_parallel()->set_data(c.data);
    const absl::Status status = CheckBatchForGpu(recipe);
    EXPECT_EQ(status.ok(), c.wanted[0] == '\0') << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.wanted));
  }
}

TEST(FoundDeviceTest, GoesBetweenRanksAsText) {
  for (const FoundDevice& found :
       {None(), Gpu("GPU 0000:1b:00.0 of a", "NVIDIA H100")}) {
    const FoundDevice same = FoundDevice::FromText(found.ToText());
    EXPECT_EQ(same.error, found.error);
    EXPECT_EQ(same.place, found.place);
    EXPECT_EQ(same.model, found.model);
  }
  // Whatever a driver says, it stays an error.
  const FoundDevice odd = {"two\nlines\n", "", ""};
  EXPECT_EQ(FoundDevice::FromText(odd.ToText()).error, "two lines ");
}

TEST(FoundDeviceTest, AdviceIsLeftOut) {
  EXPECT_EQ(WithoutAdvice(kNone), "no driver");
  EXPECT_EQ(WithoutAdvice("no driver"), "no driver");
}

}  // namespace
}  // namespace carry
