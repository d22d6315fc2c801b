#include "framework/train/distribution.h"

#include <utility>

namespace carry {

std::vector<double> ByRow(const std::vector<double>& nll,
                          const std::vector<ChunkSpan>& spans, int64_t rows,
                          int64_t pieces) {
  std::vector<double> by_row(rows * pieces, 0.0);
  for (size_t i = 0; i < spans.size(); ++i) {
    for (int64_t b = 0; b < rows; ++b) {
      by_row[b * pieces + spans[i].index] = nll[i * rows + b];
    }
  }
  return by_row;
}

absl::StatusOr<std::vector<PassOutcome>> Distribution::RunPasses(
    LanguageModel& model, const std::vector<PassRequest>& requests) {
  std::vector<PassOutcome> outcomes;
  for (const PassRequest& request : requests) {
    absl::StatusOr<PassOutcome> outcome = RunPass(model, request);
    if (!outcome.ok()) return outcome.status();
    outcomes.push_back(*std::move(outcome));
  }
  return outcomes;
}

absl::StatusOr<PassOutcome> SingleRank::RunPass(LanguageModel& model,
                                                const PassRequest& request) {
  const std::vector<ChunkSpan> spans =
      CutIntoChunks(request.batch.length, request.chunk_length);
  LocalCarryExchange exchange(
      model.layers(), static_cast<int64_t>(spans.size()), request.initial);
  absl::StatusOr<std::vector<double>> nll =
      RunStreamedPass(model, request.batch, spans, exchange, request.options);
  if (!nll.ok()) return nll.status();
  PassOutcome outcome;
  outcome.nll = ByRow(*nll, spans, request.batch.batch, spans.size());
  if (request.want_final) outcome.final = exchange.final();
  return outcome;
}

}  // namespace carry
