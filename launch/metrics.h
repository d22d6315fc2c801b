// What a run writes about itself, into one folder:
//
//   metrics.jsonl          a line a logged step and a line an evaluation
//   events.out.tfevents.*  the same for TensorBoard (launch/event_file.h)
//
// A line is one JSON object. Numbers are written with 17 digits, so that they
// read back as the same double; what is not finite is null. What is equal from
// run to run stands first, what the clock decides last:
//
//   {"kind":"train","step":12,"tokens":196608,"loss":2.3025850929940459,
//    "bits_per_byte":3.3219280948873626,"grad_norm":0.98,"learning_rate":0.0006,
//    "skipped":false,"seconds":0.41,"tokens_per_second":39960,
//    "matmul_share":0.35}
//   {"kind":"eval","step":12,"tokens":1048576,"loss":...,"bits_per_byte":...,
//    "seconds":...}
//
// TensorBoard's tags are train/... and eval/... with the same names.
// Not thread-safe.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "launch/event_file.h"

namespace carry {

struct TrainMetrics {
  int64_t step = 0;            // Steps done, this one included.
  int64_t tokens = 0;          // Tokens done, this step's included.
  double loss = NAN;           // Mean, nats a token.
  double bits_per_byte = NAN;  // NaN: not known (token ids without bytes).
  double grad_norm = NAN;      // Global, before clipping.
  double learning_rate = 0;
  bool skipped = false;          // The loss or a gradient was not finite.
  double seconds = 0;            // Of this step.
  double tokens_per_second = 0;  // Of this step.
  double matmul_share = NAN;  // Matrix product FLOP/s over the measured peak.
};

struct EvalMetrics {
  int64_t step = 0;
  int64_t tokens = 0;  // Evaluated.
  double loss = NAN;
  double bits_per_byte = NAN;
  double seconds = 0;
};

// One line each, with the newline.
std::string JsonLine(const TrainMetrics& metrics);
std::string JsonLine(const EvalMetrics& metrics);

class MetricsWriter {
 public:
  // `dir` exists. `steps_done` > 0: the run resumes; lines of metrics.jsonl
  // that an interrupted run wrote for later steps are dropped. 0: starts anew.
  static absl::StatusOr<std::unique_ptr<MetricsWriter>> Open(
      const std::string& dir, int64_t steps_done);
  ~MetricsWriter();
  MetricsWriter(const MetricsWriter&) = delete;
  MetricsWriter& operator=(const MetricsWriter&) = delete;

  // Each call is on disk, as far as the program sees, when it returns.
  absl::Status Write(const TrainMetrics& metrics);
  absl::Status Write(const EvalMetrics& metrics);

 private:
  MetricsWriter(std::string path, std::FILE* file,
                std::unique_ptr<EventFile> events)
      : path_(std::move(path)), file_(file), events_(std::move(events)) {}
  absl::Status WriteLine(const std::string& line);

  std::string path_;
  std::FILE* file_;
  std::unique_ptr<EventFile> events_;
};

}  // namespace carry
