#include "framework/train/learner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "kernels/elementwise.h"

namespace carry {
namespace {

int64_t CountTargets(const SequenceBatch& batch) {
  int64_t count = 0;
  for (int64_t b = 0; b < batch.batch; ++b) {
    const int32_t* row = batch.targets + b * batch.stride;
    count += batch.length - std::count(row, row + batch.length, -1);
  }
  return count;
}

// Copies rows [from, from + rows) of every field of `src` to row `to` of dst.
void CopyRows(const Carry& src, int64_t from, int64_t rows, const Carry& dst,
              int64_t to) {
  for (size_t f = 0; f < src.fields(); ++f) {
    const int64_t row = src.field(f).size() / src.field(f).dim(0);
    std::memcpy(dst.field(f).f32() + to * row, src.field(f).f32() + from * row,
                rows * row * sizeof(float));
  }
}

}  // namespace

DType ActivationDType(const config::Recipe& recipe) {
  return recipe.training().precision() == config::Training::BF16 ? DType::kBF16
                                                                 : DType::kF32;
}

Learner::Learner(const config::Recipe& recipe)
    : recipe_(recipe),
      model_(recipe.model(), ActivationDType(recipe)),
      optimizer_(
          (model_.Allocate(recipe.training().seed(), true), recipe.optimizer()),
          model_.parameters()),
      carried_(recipe.data().packing() == config::Data::CARRIED) {}

std::vector<Learner::MicroBatch> Learner::Cut(
    const SequenceBatch& batch) const {
  int64_t rows = recipe_.training().micro_batch_size();
  if (rows <= 0) rows = batch.batch;
  std::vector<MicroBatch> micros;
  for (int64_t begin = 0; begin < batch.batch; begin += rows) {
    MicroBatch micro{batch, static_cast<int64_t>(micros.size())};
    micro.batch.batch = std::min(rows, batch.batch - begin);
    const int64_t offset = begin * batch.stride;
    micro.batch.tokens += offset;
    micro.batch.targets += offset;
    if (batch.document_start != nullptr) micro.batch.document_start += offset;
    micros.push_back(micro);
  }
  return micros;
}

absl::StatusOr<double> Learner::AddGradients(const MicroBatch& micro,
                                             float weight,
                                             const Tape::Observer& observer) {
  const std::vector<ChunkSpan> spans =
      CutIntoChunks(micro.batch.length, recipe_.training().chunk_length());
  std::vector<Carry> initial;
  if (carried_ && !carries_.empty()) initial = carries_[micro.index];
  LocalCarryExchange exchange(model_.layers(),
                              static_cast<int64_t>(spans.size()), initial);
  StreamedPassOptions options;
  options.loss_weight = weight;
  options.tape_memory_budget = recipe_.training().tape_memory_budget();
  options.observer = observer;
  absl::StatusOr<std::vector<double>> nll =
      RunStreamedPass(model_, micro.batch, spans, exchange, options);
  if (!nll.ok()) return nll.status();
  if (carried_) next_carries_.push_back(exchange.final());
  double sum = 0;
  for (double chunk : *nll) sum += chunk;
  return sum;
}

absl::StatusOr<UpdateResult> Learner::Update(const SequenceBatch& batch,
                                             int64_t step) {
  UpdateResult result;
  result.targets = CountTargets(batch);
  result.learning_rate =
      LearningRate(recipe_.optimizer(), step, recipe_.training().steps());
  const float weight =
      result.targets > 0 ? static_cast<float>(1.0 / result.targets) : 0.0f;
  const std::vector<MicroBatch> micros = Cut(batch);
  model_.parameters().ZeroGrads();
  next_carries_.clear();
  double nll = 0;
  for (const MicroBatch& micro : micros) {
    absl::StatusOr<double> sum = AddGradients(micro, weight, nullptr);
    if (!sum.ok()) return sum.status();
    nll += *sum;
  }
  result.loss = result.targets > 0 ? nll / result.targets : 0;
  result.gradient_norm = optimizer_.GradientNorm();
  if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm)) {
    result.nonfinite = Diagnose(micros, weight);
    return result;  // The carries of the last good step stay.
  }
  ++updates_;
  optimizer_.Step(result.learning_rate, result.gradient_norm, updates_);
  if (carried_) carries_ = next_carries_;
  return result;
}

// Runs the step again and looks at every tensor on the way: forward in order,
// then gradients as backward makes them.
std::string Learner::Diagnose(const std::vector<MicroBatch>& micros,
                              float weight) {
  for (const auto& p : model_.parameters().parameters()) {
    const int64_t i = FirstNonFinite(p->value().data(), DType::kF32, p->size());
    if (i >= 0) {
      return absl::StrCat("parameter ", p->name(), " holds ",
                          p->value().f32()[i], " at element ", i);
    }
  }
  std::string first;
  model_.parameters().ZeroGrads();
  for (const MicroBatch& micro : micros) {
    const Tape::Observer observer = [&](const std::string& name,
                                        const Tensor& tensor) {
      if (!first.empty()) return;
      for (int64_t r = 0; r < tensor.rows(); ++r) {
        const int64_t c = FirstNonFinite(tensor.Rows(r, 1).data(),
                                         tensor.dtype(), tensor.cols());
        if (c < 0) continue;
        first = absl::StrCat(name, ", row ", r, ", column ", c,
                             ", micro-batch ", micro.index);
        return;
      }
    };
    next_carries_.clear();
    (void)AddGradients(micro, weight, observer);
    if (!first.empty()) return first;
  }
  for (const auto& p : model_.parameters().parameters()) {
    if (FirstNonFinite(p->grad().data(), DType::kF32, p->size()) >= 0) {
      return absl::StrCat("gradient of ", p->name());
    }
  }
  return "the sum of losses or of squared gradients (each term is finite)";
}

std::vector<Carry> Learner::GetCarries() const {
  std::vector<Carry> all;
  if (carries_.empty()) return all;
  for (int64_t l = 0; l < model_.layers(); ++l) {
    int64_t rows = 0;
    for (const auto& micro : carries_) rows += micro[l].field(0).dim(0);
    all.push_back(Carry::Empty(model_.carry_spec(l), rows));
    int64_t to = 0;
    for (const auto& micro : carries_) {
      const int64_t n = micro[l].field(0).dim(0);
      CopyRows(micro[l], 0, n, all.back(), to);
      to += n;
    }
  }
  return all;
}

void Learner::SetCarries(const std::vector<Carry>& carries) {
  carries_.clear();
  if (carries.empty()) return;
  const int64_t batch = carries[0].field(0).dim(0);
  int64_t rows = recipe_.training().micro_batch_size();
  if (rows <= 0) rows = batch;
  for (int64_t begin = 0; begin < batch; begin += rows) {
    const int64_t n = std::min(rows, batch - begin);
    std::vector<Carry> micro;
    for (int64_t l = 0; l < model_.layers(); ++l) {
      micro.push_back(Carry::Empty(model_.carry_spec(l), n));
      CopyRows(carries[l], begin, n, micro.back(), 0);
    }
    carries_.push_back(std::move(micro));
  }
}

}  // namespace carry
