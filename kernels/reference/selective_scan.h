// The selective scan and its gradient as plain double loops: the oracle of the
// tests. Equations and shapes as in kernels/selective_scan.h; an empty vector
// stands for a null pointer there.
#pragma once

#include <cstdint>
#include <vector>

namespace carry::reference {

struct ScanInputs {
  int64_t batch, time, channels, states;
  std::vector<double> u, dt_raw, z;     // [B*T, E]; z may be empty
  std::vector<double> b, c;             // [B*T, N]
  std::vector<double> a, d, dt_bias;    // [E, N], [E], [E]
  std::vector<double> state_in;         // [B, E, N]
  std::vector<uint8_t> document_start;  // [B, T]
};

struct ScanOutputs {
  std::vector<double> out;        // [B*T, E]
  std::vector<double> state_out;  // [B, E, N]
};
ScanOutputs ScanForward(const ScanInputs& in);

struct ScanGradients {
  std::vector<double> u, dt_raw, z, b, c, a, d, dt_bias, state_in;
};
// Of sum(dout * out) + sum(dstate_out * state_out). dstate_out may be empty.
ScanGradients ScanBackward(const ScanInputs& in,
                           const std::vector<double>& dout,
                           const std::vector<double>& dstate_out);

}  // namespace carry::reference
