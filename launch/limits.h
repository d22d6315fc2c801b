// The least time that a part of a step could take on this machine, from rates
// that are measured in turns with the steps.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "framework/device.h"
#include "kernels/bench/product_yardstick.h"
#include "launch/step_profile.h"

namespace carry {

struct Limit {
  double seconds = 0;
  std::string name;  // "oneDNN's best", "copy", ...
};

// Limits:
//   products     oneDNN's best for the shape, all layouts its own choice
//   scans        the rate of exp(dt A) alone, which no scan avoids, times 0.50
//                forward and 0.24 backward: the fastest code known
//                (kernels/bench/README.md)
//   the rest     the bytes that must move, at the rate of a copy
// On a GPU: products at the rate of the best square product of their type, all
// else, scans too, the bytes that must move at the rate of a copy.
// Every call of Sample() adds a sample to each rate; limits use the best of
// them, as the best time of a part would be.
class Limits {
 public:
  // For the parts of one step.
  explicit Limits(const std::vector<StepPart>& parts);

  void Sample();
  Limit Of(const StepPart& part) const;
  // The yardsticks in a line each.
  std::string ToString() const;

 private:
  using Shape = std::tuple<int64_t, int64_t, int64_t, bool>;
  struct Product {
    std::unique_ptr<ProductYardstick> yardstick;
    double gflops = 0;
  };
  static Shape ShapeOf(const StepPart& part);

  std::map<Shape, Product> products_;
  double exp_rate_ = 0;   // 1e9 a second
  double copy_rate_ = 0;  // GB/s
  double read_rate_ = 0;
  double fma_rate_ = 0;  // GFLOP/s
  // On a GPU, by type.
  const bool gpu_ = DefaultDevice() != Device::kCpu;
  std::map<DType, double> product_rates_;  // GFLOP/s
};

}  // namespace carry
