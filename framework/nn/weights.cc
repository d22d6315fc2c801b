#include "framework/nn/weights.h"

#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"

namespace carry {
namespace {

constexpr char kEmbeddings[] = "backbone.embeddings.weight";
constexpr char kMambaSsmEmbedding[] = "backbone.embedding.weight";
constexpr char kHead[] = "lm_head.weight";

absl::Status CheckShape(const std::string& path, const TensorView& tensor,
                        const Parameter& parameter) {
  if (tensor.shape == parameter.shape()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": ", tensor.name, " has shape ", ToString(tensor.shape),
      ", the model wants ", ToString(parameter.shape()),
      "; config.json and the weights do not belong together"));
}

absl::Status CopyIntoParameter(const TensorView& from, Parameter& parameter) {
  const Tensor& value = parameter.value();
  if (value.device() == Device::kCpu) {
    return CopyAsFloat(from, absl::MakeSpan(value.f32(), value.size()));
  }
  std::vector<float> host(value.size());
  absl::Status status = CopyAsFloat(from, absl::MakeSpan(host));
  if (status.ok()) {
    value.backend().FromHost(value.data(), host.data(), value.bytes());
  }
  return status;
}

// A head that is stored beside a tied embedding must be the embedding.
absl::Status CheckTiedHead(const std::string& path, const TensorView& head,
                           const Parameter& embeddings) {
  absl::Status shape = CheckShape(path, head, embeddings);
  if (!shape.ok()) return shape;
  std::vector<float> values(head.elements());
  absl::Status copied = CopyAsFloat(head, absl::MakeSpan(values));
  if (!copied.ok()) return copied;
  absl::StatusOr<Tensor> tied = embeddings.value().ToHost();
  if (!tied.ok()) return tied.status();
  if (std::memcmp(values.data(), tied->data(), values.size() * sizeof(float)) ==
      0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": ", kHead, " differs from ", kEmbeddings,
      " but config.json says that they are tied; set tie_word_embeddings to "
      "false there"));
}

}  // namespace

absl::Status LoadWeights(const SafetensorsFolder& folder,
                         const std::string& path, LanguageModel& model) {
  ParameterStore& store = model.parameters();
  std::set<std::string> unused;
  for (const std::string& name : folder.Names()) unused.insert(name);
  for (const auto& parameter : store.parameters()) {
    const TensorView* tensor = folder.Find(parameter->name());
    if (tensor == nullptr && parameter->name() == kEmbeddings) {
      tensor = folder.Find(kMambaSsmEmbedding);
    }
    if (tensor == nullptr) {
      return absl::NotFoundError(absl::StrCat(
          path, ": there is no tensor ", parameter->name(),
          "; the folder's weights are not those of its config.json"));
    }
    absl::Status status = CheckShape(path, *tensor, *parameter);
    if (!status.ok()) return status;
    status = CopyIntoParameter(*tensor, *parameter);
    if (!status.ok()) return status;
    unused.erase(tensor->name);
  }
  if (const TensorView* head = folder.Find(kHead);
      head != nullptr && store.Find(kHead) == nullptr) {
    absl::Status status = CheckTiedHead(path, *head, *store.Find(kEmbeddings));
    if (!status.ok()) return status;
    unused.erase(kHead);
  }
  if (!unused.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", *unused.begin(),
                     " is no parameter of the model that config.json "
                     "describes"));
  }
  store.Changed();
  return absl::OkStatus();
}

TensorToWrite ToWrite(std::string name, Shape shape, const Tensor& tensor) {
  TensorToWrite write;
  write.name = std::move(name);
  write.dtype = tensor.dtype();
  write.shape = std::move(shape);
  if (tensor.device() == Device::kCpu) {
    write.data = tensor.data();
  } else {
    write.copy = [tensor](void* out) {
      return tensor.backend().ToHost(out, tensor.data(), tensor.bytes());
    };
  }
  return write;
}

std::vector<TensorToWrite> WeightsToWrite(const LanguageModel& model) {
  std::vector<TensorToWrite> tensors;
  for (const auto& p : model.parameters().parameters()) {
    tensors.push_back(ToWrite(p->name(), p->shape(), p->value()));
  }
  return tensors;
}

}  // namespace carry
