#include "gtest/gtest.h"
#include "kernels/cuda/selective_scan.h"
#include "kernels/cuda/selective_scan_layout.h"

namespace carry::cuda {
namespace {

// Segments cover the time, none is empty, all but the last are whole tiles.
void ExpectSound(const ScanPlan& plan, int64_t time) {
  EXPECT_GE(plan.segments, 1);
  EXPECT_EQ(plan.segment_time % kScanTile, 0);
  EXPECT_GE(plan.segments * plan.segment_time, time);
  EXPECT_LT((plan.segments - 1) * plan.segment_time, time);
  EXPECT_EQ(plan.threads % 32, 0);
  EXPECT_GE(plan.groups_a_block, 1);
}

TEST(ScanPlan, IsSoundForEveryShape) {
  for (int64_t batch : {1, 3, 64}) {
    for (int64_t time : {1, 7, 8, 63, 64, 65, 511, 4096, 100000}) {
      for (int64_t channels : {1, 130, 1536, 8192}) {
        for (int64_t states : {1, 16, 17, 64, 65, 256}) {
          for (int sms : {1, 132, 148}) {
            SCOPED_TRACE(::testing::Message()
                         << batch << " " << time << " " << channels << " "
                         << states << " " << sms);
            ExpectSound(PlanSelectiveScan(batch, time, channels, states, sms),
                        time);
          }
        }
      }
    }
  }
}

TEST(ScanPlan, SplitsTimeOnlyWhereTheMachineWouldBeIdle) {
  // 48 warps on 132 multiprocessors.
  const ScanPlan small = PlanSelectiveScan(1, 4096, 1536, 16, 132);
  EXPECT_GT(small.segments, 16);
  // 3072 warps.
  EXPECT_EQ(PlanSelectiveScan(64, 4096, 1536, 16, 132).segments, 1);
  // Nothing to split.
  EXPECT_EQ(PlanSelectiveScan(1, 100, 1536, 16, 132).segments, 1);
}

// Sizes beyond 2^31 do not wrap.
TEST(ScanPlan, WorkspacesOfLargeShapes) {
  SelectiveScanArgs args = {};
  args.batch = 8, args.time = 1 << 20, args.channels = 8192, args.states = 256;
  const ScanPlan plan =
      PlanSelectiveScan(args.batch, args.time, args.channels, args.states, 132);
  const int64_t saved =
      SelectiveScanSavedSize(args.batch, args.time, args.channels, args.states);
  EXPECT_EQ(saved, int64_t{8} * (1 << 20) / kScanTile * 8192 * 256);
  const BackwardLayout at = LayOutBackward(args, plan);
  EXPECT_LE(at.channel_blocks, 64);
  EXPECT_EQ(at.size - at.dbc, at.channel_blocks * 8 * (1 << 20) * 512);
  EXPECT_GE(at.dbc, at.dbias + args.channels);
}

}  // namespace
}  // namespace carry::cuda
