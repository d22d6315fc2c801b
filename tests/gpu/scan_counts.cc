// Runs the scan once each way, for an interpreter that counts instructions:
// bf16, N = 16, E = 384, 512 tokens, which are 3145728 (t, d, n) elements;
// unsplit, or `split` into segments of 128 tokens.
#include <cstdio>
#include <cstring>

#include "kernels/cuda/selective_scan.h"
#include "tests/host_cuda/device_memory.h"
#include "tests/kernels/selective_scan_cases.h"

namespace carry {
namespace {

bool Run(bool split) {
  const DType bf16 = DType::kBF16;
  const scan_cases::Case c = {"",   1,    512,  384,  16,  {},
                              true, true, true, bf16, bf16};
  const reference::ScanInputs in = scan_cases::MakeInputs(c);
  scan_cases::KernelInputs host(in, c);
  testing::Matrix x(in.u, 512, 384, bf16), bc(in.b, 512, 16, bf16);
  std::vector<float> state(384 * 16), da(state), d(384), bias(384);
  std::vector<float> saved(cuda::SelectiveScanSavedSize(1, 512, 384, 16));
  cuda::ScanPlan plan;
  plan.segment_time = split ? 128 : 512;
  plan.segments = split ? 4 : 1;
  testing::DeviceMemory mem;
  SelectiveScanArgs args = host.args;
  args.u = mem.In(args.u), args.dt_raw = mem.In(args.dt_raw);
  args.z = mem.In(args.z), args.b = mem.In(args.b), args.c = mem.In(args.c);
  args.a = mem.In(host.a), args.d = mem.In(host.d);
  args.dt_bias = mem.In(host.dt_bias), args.state_in = mem.In(host.state_in);
  float* kept = mem.InOut(&saved);
  float* room =
      mem.Scratch<float>(cuda::SelectiveScanBackwardWorkspace(args, plan) +
                         cuda::SelectiveScanForwardWorkspace(args, plan));
  const cuda::LaunchStatus forward = cuda::SelectiveScanForward(
      args, {mem.InOut(x.view()), mem.InOut(&state), kept}, plan, room,
      nullptr);
  const cuda::LaunchStatus backward = cuda::SelectiveScanBackward(
      args,
      {mem.In(ConstMatView(x.view())), mem.In(state), kept, mem.InOut(x.view()),
       mem.InOut(x.view()), mem.InOut(x.view()), mem.InOut(bc.view()),
       mem.InOut(bc.view()), mem.InOut(&da), mem.InOut(&d), mem.InOut(&bias),
       mem.InOut(&state)},
      plan, room, nullptr);
  mem.Finish();
  return forward.ok() && backward.ok();
}

}  // namespace
}  // namespace carry

int main(int argc, char** argv) {
  return carry::Run(argc > 1 && std::strcmp(argv[1], "split") == 0) ? 0 : 1;
}
