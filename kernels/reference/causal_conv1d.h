// The causal convolution and its gradient as plain double loops. Equations and
// shapes as in kernels/causal_conv1d.h; an empty vector is a null pointer.
#pragma once

#include <cstdint>
#include <vector>

namespace carry::reference {

struct ConvInputs {
  int64_t batch, time, channels, taps;
  std::vector<double> x;                // [B*T, E]
  std::vector<double> weight, bias;     // [E, K], [E]
  std::vector<double> carry_in;         // [B, E, K-1]
  std::vector<uint8_t> document_start;  // [B, T]
  bool silu = true;
};

struct ConvOutputs {
  std::vector<double> y;          // [B*T, E]
  std::vector<double> carry_out;  // [B, E, K-1]
};
ConvOutputs ConvForward(const ConvInputs& in);

struct ConvGradients {
  std::vector<double> x, weight, bias, carry_in;
};
// Of sum(dy * y) + sum(dcarry_out * carry_out). dcarry_out may be empty.
ConvGradients ConvBackward(const ConvInputs& in, const std::vector<double>& dy,
                           const std::vector<double>& dcarry_out);

}  // namespace carry::reference
