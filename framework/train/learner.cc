#include "framework/train/learner.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

// Copies rows [from, from + rows) of every field of `src` to row `to` of dst.
void CopyRows(const Carry& src, int64_t from, int64_t rows, const Carry& dst,
              int64_t to) {
  for (size_t f = 0; f < src.fields(); ++f) {
    const int64_t row = src.field(f).size() / src.field(f).dim(0);
    dst.field(f)
        .Slice(to * row, {rows * row})
        .CopyFrom(src.field(f).Slice(from * row, {rows * row}));
  }
}

// REQUIRES x.contiguous().
absl::StatusOr<int64_t> FirstNonFinite(const Tensor& x) {
  return x.backend().FirstNonFinite(x.data(), x.dtype(), x.size());
}

}  // namespace

DType ActivationDType(const config::Recipe& recipe) {
  return recipe.training().precision() == config::Training::BF16 ? DType::kBF16
                                                                 : DType::kF32;
}

Learner::Learner(const config::Recipe& recipe, Distribution& ranks)
    : recipe_(recipe),
      ranks_(ranks),
      model_(recipe.model(), ActivationDType(recipe)),
      optimizer_(
          (model_.Allocate(recipe.training().seed(), true), recipe.optimizer()),
          model_.parameters(), ranks.Shards(model_.parameters().buckets())),
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

absl::StatusOr<std::vector<std::vector<double>>> Learner::AddGradients(
    const std::vector<MicroBatch>& micros, float weight, bool reduce,
    const Tape::Observer& observer) {
  std::vector<PassRequest> requests;
  for (const MicroBatch& micro : micros) {
    PassRequest request;
    request.batch = micro.batch;
    request.chunk_length = recipe_.training().chunk_length();
    request.options.loss_weight = weight;
    request.options.tape_memory_budget =
        recipe_.training().tape_memory_budget();
    request.options.observer = observer;
    if (carried_ && !carries_.empty()) request.initial = carries_[micro.index];
    request.want_final = carried_;
    requests.push_back(std::move(request));
  }
  if (reduce && !requests.empty()) {
    requests.back().options.layer_done = [this](int64_t layer) {
      ParameterStore& store = model_.parameters();
      if (layer == model_.layers() - 1) {
        // What lies above the layers was complete before them.
        absl::Status status = ranks_.StartReduce(
            store, static_cast<int64_t>(store.buckets().size()) - 1);
        if (!status.ok()) return status;
      }
      return ranks_.StartReduce(store, LanguageModel::LayerBucket(layer));
    };
  }
  absl::StatusOr<std::vector<PassOutcome>> outcomes =
      ranks_.RunPasses(model_, requests);
  if (!outcomes.ok()) return outcomes.status();
  std::vector<std::vector<double>> nll;
  for (PassOutcome& outcome : *outcomes) {
    if (carried_ && !outcome.final.empty()) {
      next_carries_.push_back(std::move(outcome.final));
    }
    nll.push_back(std::move(outcome.nll));
  }
  return nll;
}

absl::StatusOr<double> Learner::TotalNll(
    const std::vector<std::vector<double>>& nll, int64_t length) {
  const int64_t batch = recipe_.training().batch_size();
  const int64_t pieces =
      ranks_.Pieces(length, recipe_.training().chunk_length());
  std::vector<double> all(batch * pieces, 0.0);
  double* next = all.data() + ranks_.Rows(batch).begin * pieces;
  for (const std::vector<double>& pass : nll) {
    next = std::copy(pass.begin(), pass.end(), next);
  }
  CARRY_CHECK(next - all.data() == ranks_.Rows(batch).end * pieces);
  absl::Status status = ranks_.Sum(all);
  if (!status.ok()) return status;
  return std::accumulate(all.begin(), all.end(), 0.0);
}

absl::StatusOr<double> Learner::GlobalNorm() {
  absl::StatusOr<std::vector<double>> sums = optimizer_.SumsOfSquares();
  if (!sums.ok()) return sums.status();
  absl::Status status = ranks_.Sum(*sums);
  if (!status.ok()) return status;
  return std::sqrt(std::accumulate(sums->begin(), sums->end(), 0.0));
}

absl::StatusOr<UpdateResult> Learner::Update(const SequenceBatch& batch,
                                             int64_t targets, int64_t step) {
  UpdateResult result;
  result.targets = targets;
  result.learning_rate =
      LearningRate(recipe_.optimizer(), step, recipe_.training().steps());
  const float weight = targets > 0 ? static_cast<float>(1.0 / targets) : 0.0f;
  const std::vector<MicroBatch> micros = Cut(batch);
  model_.parameters().BeginGrads();
  next_carries_.clear();
  absl::StatusOr<std::vector<std::vector<double>>> nll =
      AddGradients(micros, weight, /*reduce=*/true, nullptr);
  if (!nll.ok()) return nll.status();
  absl::Status status = ranks_.FinishReduce(model_.parameters());
  if (!status.ok()) return status;
  absl::StatusOr<double> total = TotalNll(*nll, batch.length);
  if (!total.ok()) return total.status();
  absl::StatusOr<double> norm = GlobalNorm();
  if (!norm.ok()) return norm.status();
  result.loss = targets > 0 ? *total / targets : 0;
  result.gradient_norm = *norm;
  if (!std::isfinite(result.loss) || !std::isfinite(result.gradient_norm)) {
    absl::StatusOr<std::string> where = Diagnose(micros, weight);
    if (!where.ok()) return where.status();
    result.nonfinite = *std::move(where);
    return result;  // The carries of the last good step stay.
  }
  ++updates_;
  optimizer_.Step(result.learning_rate, result.gradient_norm, updates_);
  status = ranks_.GatherParameters(model_.parameters());
  if (!status.ok()) return status;
  if (carried_) carries_ = next_carries_;
  return result;
}

// Runs the step again and looks at every tensor on the way: forward in order,
// then gradients as backward makes them. All ranks run all passes.
absl::StatusOr<std::string> Learner::Diagnose(
    const std::vector<MicroBatch>& micros, float weight) {
  for (const auto& p : model_.parameters().parameters()) {
    const absl::StatusOr<int64_t> i = FirstNonFinite(p->value());
    if (!i.ok()) return i.status();
    if (*i < 0) continue;
    float x = 0;
    absl::Status status =
        p->value().backend().ToHost(&x, p->value().f32() + *i, sizeof(x));
    if (!status.ok()) return status;
    return absl::StrCat("parameter ", p->name(), " holds ", x, " at element ",
                        *i);
  }
  std::string first;
  model_.parameters().ZeroGrads();
  for (const MicroBatch& micro : micros) {
    const Tape::Observer observer = [&](const std::string& name,
                                        const Tensor& tensor) {
      if (!first.empty()) return;
      // An error of the device is the pass's own, below.
      const int64_t i =
          FirstNonFinite(tensor.contiguous() ? tensor : tensor.Clone())
              .value_or(-1);
      if (i < 0) return;
      first = absl::StrCat(name, ", row ", i / tensor.cols(), ", column ",
                           i % tensor.cols(), ", micro-batch ", micro.index);
    };
    next_carries_.clear();
    absl::StatusOr<std::vector<std::vector<double>>> pass =
        AddGradients({micro}, weight, /*reduce=*/false, observer);
    if (!pass.ok()) return pass.status();
  }
  for (const auto& p : model_.parameters().parameters()) {
    if (!first.empty()) break;
    const absl::StatusOr<int64_t> i = FirstNonFinite(p->grad());
    if (!i.ok()) return i.status();
    if (*i >= 0) first = absl::StrCat("gradient of ", p->name());
  }
  absl::StatusOr<std::vector<std::string>> all =
      ranks_.Gather("search for what is not finite", first);
  if (!all.ok()) return all.status();
  for (size_t r = 0; r < all->size(); ++r) {
    if ((*all)[r].empty()) continue;
    return ranks_.size() == 1 ? (*all)[r]
                              : absl::StrCat("rank ", r, ": ", (*all)[r]);
  }
  return std::string(
      "the sum of losses or of squared gradients (each term is finite)");
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
