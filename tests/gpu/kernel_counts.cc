// Runs one op, for an interpreter of PTX that counts what its kernels execute,
// and prints how many elements that was: tests/tools/cuda_counts.sh.
//
//   gpu_kernel_counts scan|scan_split|scan_summary|conv|rms_norm|cross_entropy|
//                     adamw|embedding|checksum
//
// bf16 activations; the scan with N = 16, whole or in segments of 128 tokens.
#include <cstdio>
#include <functional>
#include <initializer_list>
#include <list>
#include <map>
#include <string>

#include "kernels/cuda/adamw.h"
#include "kernels/cuda/causal_conv1d.h"
#include "kernels/cuda/checksum.h"
#include "kernels/cuda/cross_entropy.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/rms_norm.h"
#include "kernels/cuda/selective_scan.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/case_util.h"

namespace carry {
namespace {

using testing::DeviceMemory;

constexpr int64_t kTime = 512, kChannels = 384, kStates = 16;

// Inputs and outputs of no other meaning than their size.
class Room {
 public:
  float* F32(int64_t n, double low = -1, double high = 1) {
    floats_.push_back(testing::Floats(random_.Vector(n, low, high)));
    return mem_.InOut(&floats_.back());
  }
  MatView Matrix(int64_t rows, int64_t cols, DType type) {
    matrices_.emplace_back(random_.Vector(rows * cols, -1, 1, type), rows, cols,
                           type);
    return mem_.InOut(matrices_.back().view());
  }
  MatView Bf16(int64_t rows, int64_t cols) {
    return Matrix(rows, cols, DType::kBF16);
  }
  const int32_t* Ints(int64_t n, int64_t limit) {
    std::vector<int32_t> v(n);
    for (int32_t& x : v) x = static_cast<int32_t>(random_(0, limit));
    return mem_.In(v);
  }
  DeviceMemory& mem() { return mem_; }

 private:
  testing::Random random_{3};
  // Addresses of their elements are kept.
  std::list<std::vector<float>> floats_;
  std::list<testing::Matrix> matrices_;
  DeviceMemory mem_;
};

// Elements of a run, or 0 if a launch was refused.
int64_t Elements(int64_t n, std::initializer_list<cuda::LaunchStatus> all) {
  for (const cuda::LaunchStatus& status : all) {
    if (!status.ok()) return 0;
  }
  return n;
}

SelectiveScanArgs ScanArgs(Room* room) {
  SelectiveScanArgs args = {1,       kTime,   kChannels, kStates, {},
                            {},      {},      {},        {},      nullptr,
                            nullptr, nullptr, nullptr,   nullptr};
  args.u = room->Bf16(kTime, kChannels);
  args.dt_raw = room->Bf16(kTime, kChannels);
  args.z = room->Bf16(kTime, kChannels);
  args.b = room->Bf16(kTime, kStates);
  args.c = room->Bf16(kTime, kStates);
  args.a = room->F32(kChannels * kStates, -16, -0.01);
  args.d = room->F32(kChannels);
  args.dt_bias = room->F32(kChannels);
  args.state_in = room->F32(kChannels * kStates);
  return args;
}

cuda::ScanPlan Plan(bool split) {
  cuda::ScanPlan plan;
  plan.segment_time = split ? 128 : kTime;
  plan.segments = kTime / plan.segment_time;
  return plan;
}

int64_t Scan(Room* room, bool split) {
  const cuda::ScanPlan plan = Plan(split);
  const SelectiveScanArgs args = ScanArgs(room);
  const auto matrix = [&] { return room->Bf16(kTime, kChannels); };
  float* saved =
      room->F32(cuda::SelectiveScanSavedSize(1, kTime, kChannels, kStates));
  float* workspace = room->mem().Scratch<float>(
      cuda::SelectiveScanBackwardWorkspace(args, plan) +
      cuda::SelectiveScanForwardWorkspace(args, plan));
  const int64_t states = kChannels * kStates;
  const cuda::LaunchStatus forward = cuda::SelectiveScanForward(
      args, {matrix(), room->F32(states), saved}, plan, workspace, nullptr);
  const cuda::LaunchStatus backward = cuda::SelectiveScanBackward(
      args,
      {matrix(), room->F32(states), saved, matrix(), matrix(), matrix(),
       room->Bf16(kTime, kStates), room->Bf16(kTime, kStates),
       room->F32(states), room->F32(kChannels), room->F32(kChannels),
       room->F32(states)},
      plan, workspace, nullptr);
  return Elements(kTime * kChannels * kStates, {forward, backward});
}

int64_t ScanSummaries(Room* room) {
  const cuda::ScanPlan plan = Plan(true);
  const SelectiveScanArgs args = ScanArgs(room);
  float* workspace = room->mem().Scratch<float>(
      cuda::SelectiveScanSummaryWorkspace(args, plan));
  const ScanSummary summary = {room->F32(kChannels * kStates),
                               room->F32(kChannels)};
  const cuda::LaunchStatus state =
      cuda::SelectiveScanSummary(args, summary, plan, workspace, nullptr);
  const cuda::LaunchStatus grad = cuda::SelectiveScanGradSummary(
      args, room->Bf16(kTime, kChannels), summary, plan, workspace, nullptr);
  return Elements(kTime * kChannels * kStates, {state, grad});
}

int64_t Conv(Room* room) {
  constexpr int64_t kTaps = 4, kTime = 4096;
  CausalConv1dArgs args = {};
  args.batch = 1, args.time = kTime, args.channels = kChannels;
  args.taps = kTaps;
  args.x = room->Bf16(kTime, kChannels);
  args.weight = room->F32(kChannels * kTaps);
  args.bias = room->F32(kChannels);
  args.carry_in = room->F32(kChannels * (kTaps - 1));
  const cuda::LaunchStatus forward = cuda::CausalConv1dForward(
      args, {room->Bf16(kTime, kChannels), room->F32(kChannels * (kTaps - 1))},
      nullptr);
  const cuda::LaunchStatus backward = cuda::CausalConv1dBackward(
      args,
      {room->Bf16(kTime, kChannels), room->F32(kChannels * (kTaps - 1)),
       room->Bf16(kTime, kChannels), room->F32(kChannels * kTaps),
       room->F32(kChannels), room->F32(kChannels * (kTaps - 1))},
      room->mem().Scratch<float>(cuda::CausalConv1dBackwardWorkspace(args)),
      nullptr);
  return Elements(kTime * kChannels, {forward, backward});
}

int64_t RmsNorm(Room* room) {
  constexpr int64_t kRows = 128, kDim = 768, kAll = kRows * kDim;
  float *sum = room->F32(kAll), *weight = room->F32(kDim);
  float* inv_rms = room->F32(kRows, 1, 2);
  const cuda::LaunchStatus forward =
      cuda::RmsNormForward({room->F32(kAll), room->Bf16(kRows, kDim), weight,
                            1e-5f, sum, room->Bf16(kRows, kDim), inv_rms},
                           nullptr);
  const cuda::LaunchStatus backward = cuda::RmsNormBackward(
      {room->Bf16(kRows, kDim), room->F32(kAll), sum, inv_rms, weight,
       room->F32(kAll), room->Bf16(kRows, kDim), room->F32(kDim)},
      room->mem().Scratch<float>(cuda::RmsNormBackwardWorkspace(kRows, kDim)),
      nullptr);
  return Elements(kAll, {forward, backward});
}

int64_t CrossEntropy(Room* room) {
  constexpr int64_t kRows = 8, kVocab = 32000;
  return Elements(
      kRows * kVocab,
      {cuda::CrossEntropy(
          room->Matrix(kRows, kVocab, DType::kF32), room->Ints(kRows, kVocab),
          0.5f, room->Bf16(kRows, kVocab), room->F32(kRows), nullptr)});
}

int64_t AdamW(Room* room) {
  constexpr int64_t kAll = 1 << 18;
  const AdamWArgs args = {kAll,
                          room->F32(kAll),
                          room->F32(kAll),
                          room->F32(kAll),
                          room->F32(kAll, 0, 1),
                          1e-3f,
                          0.9f,
                          0.95f,
                          1e-8f,
                          0.1f,
                          0.5f,
                          0.5f,
                          1.0f};
  return Elements(kAll, {cuda::AdamW(args, nullptr)});
}

int64_t Embedding(Room* room) {
  constexpr int64_t kRows = 4096, kVocab = 4096, kDim = 128;
  return Elements(kRows * kDim,
                  {cuda::EmbeddingBackward(
                      room->Ints(kRows, kVocab), kRows, room->F32(kRows * kDim),
                      kVocab, kDim, room->F32(kVocab * kDim),
                      room->mem().Scratch<int32_t>(
                          cuda::EmbeddingBackwardWorkspace(kRows, kVocab)),
                      nullptr)});
}

int64_t Checksum(Room* room) {
  constexpr int64_t kAll = 1 << 18;
  return Elements(
      kAll, {cuda::Checksum(
                room->F32(kAll), kAll, 1, room->mem().Scratch<uint64_t>(1),
                room->mem().Scratch<uint64_t>(cuda::ChecksumWorkspace(kAll)),
                nullptr)});
}

int Main(const std::string& op) {
  const std::map<std::string, std::function<int64_t(Room*)>> ops = {
      {"scan", [](Room* room) { return Scan(room, false); }},
      {"scan_split", [](Room* room) { return Scan(room, true); }},
      {"scan_summary", ScanSummaries},
      {"conv", Conv},
      {"rms_norm", RmsNorm},
      {"cross_entropy", CrossEntropy},
      {"adamw", AdamW},
      {"embedding", Embedding},
      {"checksum", Checksum}};
  const auto at = ops.find(op);
  if (at == ops.end()) {
    std::fprintf(stderr, "gpu_kernel_counts: which op? '%s' is none\n",
                 op.c_str());
    return 2;
  }
  int devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    std::fprintf(stderr, "SKIPPED: no CUDA device (%s)\n",
                 cudaGetErrorString(error));
    return 77;
  }
  Room room;
  const int64_t elements = at->second(&room);
  room.mem().Finish();
  std::printf("%lld\n", static_cast<long long>(elements));
  return elements > 0 ? 0 : 1;
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) { return carry::Main(argc > 1 ? argv[1] : ""); }
