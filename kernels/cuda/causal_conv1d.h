// The causal convolution on a GPU: the contract of kernels/causal_conv1d.h on
// device pointers.
//
// A thread walks over kConvSegment tokens of four channels (one, where rows are
// not aligned or K is not 4) with their windows of inputs in registers; each
// segment looks K-1 tokens to the left, and in backward also to the right,
// where its neighbours compute the same.
#pragma once

#include "kernels/causal_conv1d.h"
#include "kernels/cuda/launch_status.h"

namespace carry::cuda {

constexpr int64_t kConvSegment = 64;

// Floats of backward's workspace, which need not be initialised.
int64_t CausalConv1dBackwardWorkspace(const CausalConv1dArgs& args);

// REQUIRES B <= 65535.
LaunchStatus CausalConv1dForward(const CausalConv1dArgs& args,
                                 const CausalConv1dForwardOut& out,
                                 Stream stream);
LaunchStatus CausalConv1dBackward(const CausalConv1dArgs& args,
                                  const CausalConv1dBackwardArgs& grad,
                                  float* workspace, Stream stream);

}  // namespace carry::cuda
