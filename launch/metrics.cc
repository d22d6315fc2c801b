#include "launch/metrics.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace carry {
namespace {

std::string JsonNumber(double x) {
  return std::isfinite(x) ? absl::StrFormat("%.17g", x) : "null";
}

// The step of a line, or -1 where it is not one of ours.
int64_t StepOf(const std::string& line) {
  const nlohmann::json json =
      nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return -1;
  auto step = json.find("step");
  if (step == json.end() || !step->is_number_integer()) return -1;
  return step->get<int64_t>();
}

// The lines up to `steps_done`; a line cut short by a crash is not among them.
std::string LinesToKeep(const std::string& path, int64_t steps_done) {
  std::string kept;
  std::ifstream file(path, std::ios::binary);
  for (std::string line; std::getline(file, line);) {
    const int64_t step = StepOf(line);
    if (step >= 0 && step <= steps_done) absl::StrAppend(&kept, line, "\n");
  }
  return kept;
}

}  // namespace

std::string JsonLine(const TrainMetrics& m) {
  return absl::StrCat(
      "{\"kind\":\"train\",\"step\":", m.step, ",\"tokens\":", m.tokens,
      ",\"loss\":", JsonNumber(m.loss),
      ",\"bits_per_byte\":", JsonNumber(m.bits_per_byte),
      ",\"grad_norm\":", JsonNumber(m.grad_norm),
      ",\"learning_rate\":", JsonNumber(m.learning_rate),
      ",\"skipped\":", m.skipped ? "true" : "false",
      ",\"seconds\":", JsonNumber(m.seconds),
      ",\"tokens_per_second\":", JsonNumber(m.tokens_per_second),
      ",\"matmul_share\":", JsonNumber(m.matmul_share), "}\n");
}

std::string JsonLine(const EvalMetrics& m) {
  return absl::StrCat("{\"kind\":\"eval\",\"step\":", m.step,
                      ",\"tokens\":", m.tokens,
                      ",\"loss\":", JsonNumber(m.loss),
                      ",\"bits_per_byte\":", JsonNumber(m.bits_per_byte),
                      ",\"seconds\":", JsonNumber(m.seconds), "}\n");
}

absl::StatusOr<std::unique_ptr<MetricsWriter>> MetricsWriter::Open(
    const std::string& dir, int64_t steps_done) {
  const std::string path = absl::StrCat(dir, "/metrics.jsonl");
  const std::string kept = steps_done > 0 ? LinesToKeep(path, steps_done) : "";
  absl::StatusOr<std::unique_ptr<EventFile>> events =
      EventFile::Create(dir, steps_done > 0 ? steps_done + 1 : 0);
  if (!events.ok()) return events.status();

  // Replaced by a rename, so that a full disk costs no old line.
  const std::string fresh = path + ".new";
  std::FILE* file = std::fopen(fresh.c_str(), "wb");
  if (file == nullptr) {
    return absl::UnavailableError(
        absl::StrCat(fresh, ": cannot create: ", std::strerror(errno)));
  }
  std::unique_ptr<MetricsWriter> writer(
      new MetricsWriter(path, file, *std::move(events)));
  absl::Status status = writer->WriteLine(kept);
  if (!status.ok()) return status;
  if (std::rename(fresh.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError(
        absl::StrCat(path, ": cannot replace: ", std::strerror(errno)));
  }
  return writer;
}

MetricsWriter::~MetricsWriter() { std::fclose(file_); }

absl::Status MetricsWriter::WriteLine(const std::string& line) {
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() ||
      std::fflush(file_) != 0) {
    return absl::UnavailableError(
        absl::StrCat(path_, ": cannot write: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::Status MetricsWriter::Write(const TrainMetrics& m) {
  absl::Status status = WriteLine(JsonLine(m));
  if (!status.ok()) return status;
  std::vector<std::pair<std::string, double>> scalars = {
      {"train/loss", m.loss},
      {"train/grad_norm", m.grad_norm},
      {"train/learning_rate", m.learning_rate},
      {"train/tokens_per_second", m.tokens_per_second}};
  if (!std::isnan(m.bits_per_byte)) {
    scalars.emplace_back("train/bits_per_byte", m.bits_per_byte);
  }
  if (!std::isnan(m.matmul_share)) {
    scalars.emplace_back("train/matmul_share", m.matmul_share);
  }
  return events_->WriteScalars(m.step, scalars);
}

absl::Status MetricsWriter::Write(const EvalMetrics& m) {
  absl::Status status = WriteLine(JsonLine(m));
  if (!status.ok()) return status;
  std::vector<std::pair<std::string, double>> scalars = {{"eval/loss", m.loss}};
  if (!std::isnan(m.bits_per_byte)) {
    scalars.emplace_back("eval/bits_per_byte", m.bits_per_byte);
  }
  return events_->WriteScalars(m.step, scalars);
}

}  // namespace carry
