#include "parallel/communicator.h"

#include <atomic>
#include <numeric>

#include "gtest/gtest.h"
#include "parallel/nccl_communicator.h"
#include "tests/parallel/run_ranks.h"

namespace carry {
namespace {

const CommLabel kLabel = {"test", 3, 17, "forward"};

TEST(Communicator, MessagesOfATagArriveInOrder) {
  RunRanks(3, [](std::unique_ptr<Communicator> comm) {
    const int to = (comm->rank() + 1) % 3, from = (comm->rank() + 2) % 3;
    int in[4], out[4];
    std::vector<std::unique_ptr<Transfer>> all;
    for (int i = 0; i < 4; ++i) {
      out[i] = 10 * comm->rank() + i;
      // Two tags, crossed.
      all.push_back(comm->Receive(&in[i], sizeof(int), from, i % 2, kLabel));
    }
    for (int i : {1, 0, 3, 2}) {
      all.push_back(comm->Send(&out[i], sizeof(int), to, i % 2, kLabel));
    }
    for (auto& transfer : all) EXPECT_TRUE(transfer->Wait().ok());
    for (int i = 0; i < 4; ++i) EXPECT_EQ(in[i], 10 * from + i);
    EXPECT_EQ(comm->counters().bytes, 4 * static_cast<int64_t>(sizeof(int)));
  });
}

TEST(Communicator, CollectivesOfEverySize) {
  for (int size = 1; size <= 9; ++size) {
    SCOPED_TRACE(size);
    RunRanks(size, [size](std::unique_ptr<Communicator> comm) {
      const int r = comm->rank();
      EXPECT_TRUE(comm->Barrier(kLabel).ok());
      for (int root = 0; root < size; ++root) {
        int64_t value = r == root ? 100 + root : -1;
        EXPECT_TRUE(comm->Broadcast(&value, 8, root, kLabel).ok());
        EXPECT_EQ(value, 100 + root);
      }
      std::vector<int> all(size);
      EXPECT_TRUE(comm->AllGather(&r, sizeof(int), all.data(), kLabel).ok());
      for (int i = 0; i < size; ++i) EXPECT_EQ(all[i], i);
      double sums[2] = {r + 1.0, 0.5};
      EXPECT_TRUE(comm->AllReduce(sums, 2, kLabel).ok());
      EXPECT_EQ(sums[0], size * (size + 1) / 2.0);
      EXPECT_EQ(sums[1], 0.5 * size);

      // Uneven parts, one of them empty where there are several ranks.
      std::vector<Part> parts;
      int64_t at = 0;
      for (int i = 0; i < size; ++i) {
        const int64_t n = i == 1 ? 0 : 3 + i;
        parts.push_back({at, at + n});
        at += n;
      }
      std::vector<float> data(at);
      for (int64_t i = 0; i < at; ++i) data[i] = static_cast<float>(i + r);
      EXPECT_TRUE(comm->ReduceScatter(data.data(), parts, kLabel)->Wait().ok());
      for (int64_t i = parts[r].begin; i < parts[r].end; ++i) {
        EXPECT_EQ(data[i], i * size + size * (size - 1) / 2.0f);
      }
      EXPECT_TRUE(comm->AllGatherParts(data.data(), parts, kLabel).ok());
      for (int64_t i = 0; i < at; ++i) {
        EXPECT_EQ(data[i], i * size + size * (size - 1) / 2.0f);
      }
    });
  }
}

TEST(Communicator, SumsAreInRankOrder) {
  // 1e8 + 1 - 1e8 in fp32 is 0 in rank order and 1 in others.
  RunRanks(3, [](std::unique_ptr<Communicator> comm) {
    const float values[3] = {1e8f, 1.0f, -1e8f};
    float data[3] = {values[comm->rank()], values[comm->rank()],
                     values[comm->rank()]};
    EXPECT_TRUE(comm->ReduceScatter(data, {{0, 1}, {1, 2}, {2, 3}}, kLabel)
                    ->Wait()
                    .ok());
    EXPECT_EQ(data[comm->rank()], (1e8f + 1.0f) - 1e8f);
  });
}

TEST(Communicator, SplitMakesGroups) {
  RunRanks(6, [](std::unique_ptr<Communicator> comm) {
    auto group = comm->Split(comm->rank() % 2, -comm->rank());
    ASSERT_TRUE(group.ok());
    EXPECT_EQ((*group)->size(), 3);
    EXPECT_EQ((*group)->rank(), 2 - comm->rank() / 2);
    double sum = comm->rank();
    EXPECT_TRUE((*group)->AllReduce(&sum, 1, kLabel).ok());
    EXPECT_EQ(sum, comm->rank() % 2 == 0 ? 6 : 9);
  });
}

TEST(Communicator, AMissingRankIsNamedAndAllFail) {
  std::atomic<int> failed{0};
  RunRanks(
      3,
      [&](std::unique_ptr<Communicator> comm) {
        if (comm->rank() == 2) return;  // never takes part
        char byte = 0;
        absl::Status status = comm->Receive(&byte, 1, 2, 0, kLabel)->Wait();
        EXPECT_FALSE(status.ok());
        EXPECT_NE(status.message().find("rank 2"), absl::string_view::npos);
        EXPECT_NE(status.message().find("test, layer 3, chunk 17, forward"),
                  absl::string_view::npos)
            << status;
        EXPECT_FALSE(comm->Barrier(kLabel).ok());
        ++failed;
      },
      0.2);
  EXPECT_EQ(failed, 2);
}

TEST(Communicator, AnotherSizeIsAnError) {
  RunRanks(2, [](std::unique_ptr<Communicator> comm) {
    int64_t value = 0;
    if (comm->rank() == 0) {
      EXPECT_TRUE(comm->Send(&value, 4, 1, 0, kLabel)->Wait().ok());
    } else {
      absl::Status status = comm->Receive(&value, 8, 0, 0, kLabel)->Wait();
      EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << status;
    }
  });
}

// With or without CUDA and NCCL built in.
TEST(Communicator, RanksOnGpusNeedNcclAndSaySo) {
  RunRanks(2, [](std::unique_ptr<Communicator> comm) {
    NcclOptions options;
    options.library = "libnccl-not-there.so.2";
    const absl::Status status =
        NcclCommunicator::Create(*comm, nullptr, options).status();
    const std::string text(status.message());
    EXPECT_FALSE(status.ok());
    EXPECT_NE(text.find("need NCCL"), std::string::npos) << text;
    EXPECT_NE(text.find("install "), std::string::npos) << text;
    EXPECT_NE(text.find("device: CPU"), std::string::npos) << text;
  });
}

}  // namespace
}  // namespace carry
