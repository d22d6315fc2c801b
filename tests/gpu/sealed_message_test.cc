// Messages between GPUs whose numbers or seals are changed on their way.
#include "parallel/sealed_message.h"

#include <cstring>
#include <string>
#include <vector>

#include "framework/device.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace carry {
namespace {

using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

// Of the device's memory; sends nothing.
class OfTheGpu : public Communicator {
 public:
  int rank() const override { return 1; }
  int size() const override { return 4; }
  Device memory() const override { return Device::kCuda; }
  std::unique_ptr<Transfer> Send(const void*, int64_t, int, int,
                                 const CommLabel&) override {
    return nullptr;
  }
  std::unique_ptr<Transfer> Receive(void*, int64_t, int, int,
                                    const CommLabel&) override {
    return nullptr;
  }
  absl::StatusOr<std::unique_ptr<Communicator>> Split(int, int) override {
    return absl::UnimplementedError("");
  }
  CommCounters counters() const override { return {}; }
};

// Layer 3, chunk 17, from rank 2.
Stamp Due() {
  Stamp stamp;
  stamp.kind = SealKind::kCarryGrad;
  stamp.pass = 5;
  stamp.layer = 3;
  stamp.chunk = 17;
  stamp.sender = 2;
  return stamp;
}

class SealedMessageTest : public testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { ASSERT_TRUE(UseCuda({}).ok()); }

  int64_t floats() const { return GetParam(); }
  // A GPU's seals are at multiples of 8 bytes.
  int64_t SealAt() const { return (floats() + 1) / 2 * 8; }

  Tensor Numbers(float first = 1) const {
    std::vector<float> numbers(floats());
    for (int64_t i = 0; i < floats(); ++i) {
      numbers[i] = first / static_cast<float>(i + 1);
    }
    return Tensor::FromHost(numbers.data(), {floats()}, DType::kF32,
                            MemoryPart::kCarries);
  }

  static std::string Text(const Tensor& tensor) {
    const absl::StatusOr<Tensor> host = tensor.ToHost();
    EXPECT_TRUE(host.ok()) << host.status();
    return {host->as<char>(), static_cast<size_t>(host->bytes())};
  }

  // What Finish says of a message that `damage` changed between Pack and
  // Unpack.
  template <class F>
  absl::Status Send(const F& damage, const Stamp& marked = Due()) {
    SealChecks checks(/*receiver=*/1);
    const SealedMessage message(comm_, floats(), &checks);
    EXPECT_TRUE(message.Pack(Numbers(), marked).ok());
    damage(reinterpret_cast<char*>(message.data()));
    const Tensor got = Tensor::Zeros({floats()}, DType::kF32);
    const absl::Status status = message.Unpack(Due(), 1, got);
    EXPECT_TRUE(status.ok()) << status;  // Nothing was waited for.
    return checks.Finish();
  }

  void ExpectDamage(const absl::Status& status, const std::string& marked) {
    EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
    EXPECT_THAT(std::string(status.message()),
                StartsWith("rank 1: what came from rank 2 as carry, layer 3, "
                           "chunk 17, backward is not what that rank made"));
    EXPECT_THAT(std::string(status.message()), HasSubstr(marked));
  }

  OfTheGpu comm_;
};

// One float, odd numbers, whole blocks of the checksum and a bit more.
INSTANTIATE_TEST_SUITE_P(Floats, SealedMessageTest,
                         testing::Values(1, 2, 3, 7, 1024, 4097));

TEST_P(SealedMessageTest, WholeOnesPass) {
  const absl::Status status = Send([](char*) {});
  EXPECT_TRUE(status.ok()) << status;
}

TEST_P(SealedMessageTest, NumbersArriveAsTheyWere) {
  SealChecks checks(1);
  const SealedMessage message(comm_, floats(), &checks);
  ASSERT_TRUE(message.Pack(Numbers(), Due()).ok());
  const Tensor got = Tensor::Zeros({floats()}, DType::kF32);
  ASSERT_TRUE(message.Unpack(Due(), 1, got).ok());
  EXPECT_TRUE(checks.Finish().ok());
  EXPECT_EQ(Text(got), Text(Numbers()));
}

// In the first, the last and a middle number, in the checksum and the stamp.
TEST_P(SealedMessageTest, AnyBitThatFlipsIsSeen) {
  Backend& backend = BackendOf(Device::kCuda);
  for (const int64_t at :
       {int64_t{0}, floats() / 2 * 4 + 2, floats() * 4 - 1, SealAt(),
        SealAt() + 7, SealAt() + 8, SealAt() + kSealBytes - 1}) {
    for (const int bit : {0, 7}) {
      const absl::Status status = Send([&](char* message) {
        char byte = 0;
        ASSERT_TRUE(backend.ToHost(&byte, message + at, 1).ok());
        byte = static_cast<char>(byte ^ (1 << bit));
        backend.FromHost(message + at, &byte, 1);
      });
      SCOPED_TRACE(at);
      // The numbers, or the seal's own checksum.
      ExpectDamage(status, at < SealAt() + 8
                               ? "its numbers have another checksum"
                               : "it is marked");
    }
  }
}

TEST_P(SealedMessageTest, TheMarksOfAnotherMessageAreTold) {
  Stamp other = Due();
  other.layer = 4;
  other.chunk = 18;
  const absl::Status status = Send([](char*) {}, other);
  ExpectDamage(status,
               "it is marked carry, layer 4, chunk 18, backward, pass "
               "5 of rank 2 (pass 5 is due)");
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("checksum")));
  other = Due();
  other.pass = 4;
  ExpectDamage(Send([](char*) {}, other), "pass 4 of rank 2 (pass 5 is due)");
  other = Due();
  other.sender = 0;
  ExpectDamage(Send([](char*) {}, other), "pass 5 of rank 0 (pass 5 is due)");
}

// More than are kept: those before are compared on the way.
TEST_P(SealedMessageTest, AmongManyTheDamagedOneIsFound) {
  Backend& backend = BackendOf(Device::kCuda);
  const Tensor got = Tensor::Zeros({floats()}, DType::kF32);
  for (const int damaged : {-1, 0, 255, 256, 599}) {
    SealChecks checks(1);
    const SealedMessage message(comm_, floats(), &checks);
    absl::Status status;
    for (int i = 0; i < 600 && status.ok(); ++i) {
      Stamp stamp = Due();
      stamp.chunk = i;
      ASSERT_TRUE(message.Pack(Numbers(), stamp).ok());
      if (i == damaged) {
        backend.Zero(reinterpret_cast<char*>(message.data()) + 3, 1, 1, 1);
      }
      status = message.Unpack(stamp, 1, got);
    }
    if (status.ok()) status = checks.Finish();
    EXPECT_EQ(status.ok(), damaged < 0) << status;
    EXPECT_THAT(std::string(status.message()),
                HasSubstr(damaged < 0 ? ""
                                      : "chunk " + std::to_string(damaged) +
                                            ", backward is not"));
    // What was told is not told again.
    EXPECT_TRUE(checks.Finish().ok());
  }
}

}  // namespace
}  // namespace carry
