#include "framework/io/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "framework/io/json.h"
#include "kernels/check.h"

namespace carry {
namespace {

// Tensors are copied as they lie in memory.
static_assert(std::endian::native == std::endian::little);

// The limit of the reference implementation.
constexpr int64_t kMaxHeader = 100'000'000;
constexpr int64_t kPrefix = 8;  // The u64 in front of the header.
constexpr char kMetadata[] = "__metadata__";
constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

absl::Status Error(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", what,
                   "; the file is damaged or not safetensors: copy or write "
                   "it again"));
}

absl::Status TensorError(const std::string& path, absl::string_view name,
                         absl::string_view what) {
  return Error(path, absl::StrCat("tensor ", Quoted(name), " ", what));
}

uint64_t LoadU64(const char* p) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i) {
    value = (value << 8) | static_cast<uint8_t>(p[i]);
  }
  return value;
}

std::string StoreU64(uint64_t value) {
  std::string bytes(8, '\0');
  for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(value >> (8 * i));
  return bytes;
}

bool DTypeOf(absl::string_view name, DType* dtype) {
  for (const DType d : {DType::kF32, DType::kBF16, DType::kI32, DType::kU8,
                        DType::kI64, DType::kF64}) {
    if (name == Name(d)) {
      *dtype = d;
      return true;
    }
  }
  return false;
}

absl::Status ParseDType(const Json& value, const std::string& path,
                        const std::string& name, DType* dtype) {
  if (!value.is_string()) {
    return TensorError(path, name, "has a \"dtype\" that is not a string");
  }
  const std::string& text = value.get_ref<const std::string&>();
  if (DTypeOf(text, dtype)) return absl::OkStatus();
  for (const char* other : {"BOOL", "I8", "F8_E5M2", "F8_E4M3", "I16", "U16",
                            "F16", "U32", "U64"}) {
    if (text == other) {
      return absl::UnimplementedError(absl::StrCat(
          path, ": tensor ", Quoted(name), " has dtype ", text,
          "; convert it to F32, BF16, F64, I32, I64 or U8, which Carry reads"));
    }
  }
  return TensorError(path, name,
                     absl::StrCat("has the unknown dtype ", Quoted(text)));
}

// shape and the bytes that it needs.
absl::Status ParseShape(const Json& value, const std::string& path,
                        TensorView* tensor, int64_t* bytes) {
  if (!value.is_array()) {
    return TensorError(path, tensor->name,
                       "has a \"shape\" that is not an array");
  }
  *bytes = SizeOf(tensor->dtype);
  bool overflow = false;
  bool zero = false;
  for (const Json& item : value) {
    const absl::StatusOr<int64_t> size = JsonSize(
        item, absl::StrCat(path, ": a size of tensor ", Quoted(tensor->name)));
    if (!size.ok()) return size.status();
    tensor->shape.push_back(*size);
    zero |= *size == 0;
    overflow |= __builtin_mul_overflow(*bytes, *size, bytes);
  }
  if (zero) {
    *bytes = 0;
  } else if (overflow) {
    return TensorError(
        path, tensor->name,
        absl::StrCat("has shape [", absl::StrJoin(tensor->shape, ", "),
                     "], more than 2^63 - 1 bytes"));
  }
  return absl::OkStatus();
}

// One entry of the header. `data` are the bytes after it; *begin is set to
// where the tensor begins there.
absl::Status ParseTensor(const Json& value, const std::string& path,
                         absl::string_view data, TensorView* tensor,
                         int64_t* begin) {
  const std::string& name = tensor->name;
  if (!value.is_object()) {
    return TensorError(path, name, "is not described by an object");
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!value.contains(key)) {
      return TensorError(path, name, absl::StrCat("has no \"", key, "\""));
    }
  }
  if (value.size() != 3) {
    return TensorError(path, name,
                       "has keys beyond dtype, shape and data_offsets");
  }
  absl::Status s = ParseDType(value["dtype"], path, name, &tensor->dtype);
  if (!s.ok()) return s;
  int64_t needed = 0;
  s = ParseShape(value["shape"], path, tensor, &needed);
  if (!s.ok()) return s;
  const Json& offsets = value["data_offsets"];
  if (!offsets.is_array() || offsets.size() != 2) {
    return TensorError(path, name,
                       "has \"data_offsets\" that are not two numbers");
  }
  const std::string where =
      absl::StrCat(path, ": an offset of tensor ", Quoted(name));
  const absl::StatusOr<int64_t> from = JsonSize(offsets[0], where);
  if (!from.ok()) return from.status();
  const absl::StatusOr<int64_t> to = JsonSize(offsets[1], where);
  if (!to.ok()) return to.status();
  if (*from > *to || *to > static_cast<int64_t>(data.size())) {
    return TensorError(
        path, name,
        absl::StrCat("has offsets [", *from, ", ", *to, "] where the file has ",
                     data.size(), " bytes of data"));
  }
  if (*to - *from != needed) {
    return TensorError(
        path, name,
        absl::StrCat("has ", *to - *from, " bytes where ", Name(tensor->dtype),
                     " [", absl::StrJoin(tensor->shape, ", "), "] needs ",
                     needed));
  }
  *begin = *from;
  tensor->data = reinterpret_cast<const uint8_t*>(data.data()) + *from;
  tensor->bytes = needed;
  return absl::OkStatus();
}

absl::Status ParseMetadata(const Json& value, const std::string& path,
                           std::map<std::string, std::string>* metadata) {
  if (!value.is_object()) {
    return Error(path, "\"__metadata__\" is not an object");
  }
  for (const auto& [key, item] : value.items()) {
    if (!item.is_string()) {
      return Error(path, absl::StrCat("\"__metadata__\" has a value under ",
                                      Quoted(key), " that is not a string"));
    }
    if (metadata != nullptr) (*metadata)[key] = item.get<std::string>();
  }
  return absl::OkStatus();
}

// The header's text; *data becomes what follows it.
absl::StatusOr<absl::string_view> SplitHeader(absl::string_view file,
                                              const std::string& path,
                                              absl::string_view* data) {
  if (file.size() < kPrefix) {
    return Error(path, absl::StrCat("has ", file.size(),
                                    " bytes, fewer than the 8 of the header's "
                                    "length"));
  }
  const uint64_t length = LoadU64(file.data());
  if (length > kMaxHeader) {
    return Error(path, absl::StrCat("the header's length, ", length,
                                    ", is more than ", kMaxHeader));
  }
  if (length > file.size() - kPrefix) {
    return Error(path, absl::StrCat("the header needs ", length,
                                    " bytes after byte 8, but the file ends "
                                    "at byte ",
                                    file.size()));
  }
  *data = file.substr(kPrefix + length);
  return file.substr(kPrefix, length);
}

// Tensors must cover the data from end to end, each byte once: what they leave
// out could carry anything, and what overlaps was not written by a writer.
absl::Status CheckCover(const std::string& path,
                        const std::vector<TensorView>& tensors,
                        const std::vector<int64_t>& begins,
                        const std::vector<size_t>& order, int64_t size) {
  int64_t end = 0;
  for (const size_t i : order) {
    if (begins[i] != end) {
      return TensorError(
          path, tensors[i].name,
          absl::StrCat("begins at byte ", begins[i], " of the data where ", end,
                       " is expected: ",
                       begins[i] < end ? "tensors overlap" : "a hole"));
    }
    end += tensors[i].bytes;
  }
  if (end != size) {
    return Error(path, absl::StrCat("tensors end at byte ", end,
                                    " of the data, which has ", size));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<TensorView>> ParseSafetensors(
    absl::string_view file, const std::string& path,
    std::map<std::string, std::string>* metadata) {
  absl::string_view data;
  const absl::StatusOr<absl::string_view> text = SplitHeader(file, path, &data);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> header =
      ParseJson(*text, absl::StrCat(path, ": safetensors header"));
  if (!header.ok()) return header.status();
  if (!header->is_object()) return Error(path, "the header is not an object");

  std::vector<TensorView> tensors;
  std::vector<int64_t> begins;
  for (const auto& [key, value] : header->items()) {
    if (key == kMetadata) {
      absl::Status s = ParseMetadata(value, path, metadata);
      if (!s.ok()) return s;
      continue;
    }
    TensorView tensor;
    tensor.name = key;
    int64_t begin = 0;
    absl::Status s = ParseTensor(value, path, data, &tensor, &begin);
    if (!s.ok()) return s;
    tensors.push_back(std::move(tensor));
    begins.push_back(begin);
  }

  // Empty tensors come before the one that begins at the same byte.
  std::vector<size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return std::pair(begins[a], tensors[a].bytes) <
           std::pair(begins[b], tensors[b].bytes);
  });
  absl::Status s = CheckCover(path, tensors, begins, order,
                              static_cast<int64_t>(data.size()));
  if (!s.ok()) return s;
  std::vector<TensorView> sorted;
  sorted.reserve(tensors.size());
  for (const size_t i : order) sorted.push_back(std::move(tensors[i]));
  return sorted;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  absl::StatusOr<MappedFile> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  SafetensorsFile file;
  file.file_ = std::move(*mapped);
  absl::StatusOr<std::vector<TensorView>> tensors =
      ParseSafetensors(file.file_.bytes(), path, &file.metadata_);
  if (!tensors.ok()) return tensors.status();
  file.tensors_ = std::move(*tensors);
  for (size_t i = 0; i < file.tensors_.size(); ++i) {
    file.by_name_[file.tensors_[i].name] = i;
  }
  return file;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

namespace {

// The "weight_map" of an index: name -> file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(
    const std::string& path) {
  const absl::StatusOr<std::string> text = ReadFile(path, kMaxHeader);
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> index = ParseJson(*text, path);
  if (!index.ok()) return index.status();
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": has no object \"weight_map\"; export the model again"));
  }
  std::map<std::string, std::string> map;
  for (const auto& [name, value] : (*index)["weight_map"].items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map has no file name under ",
                       Quoted(name), "; export the model again"));
    }
    const std::string& file = value.get_ref<const std::string&>();
    // A shard lies beside its index; nothing else may be opened through it.
    if (file.empty() || file.find('/') != std::string::npos ||
        file.find('\0') != std::string::npos || file == "." || file == "..") {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": weight_map sends ", Quoted(name), " to ", Quoted(file),
          ", which is not the name of a file in the same folder"));
    }
    map[name] = file;
  }
  return map;
}

}  // namespace

absl::StatusOr<SafetensorsFolder> SafetensorsFolder::Open(
    const std::string& folder) {
  SafetensorsFolder result;
  const std::string single = JoinPath(folder, kSingle);
  const std::string index_path = JoinPath(folder, kIndex);
  if (PathExists(single) || !PathExists(index_path)) {
    if (!PathExists(single)) {
      return absl::NotFoundError(
          absl::StrCat(folder, " has neither ", kSingle, " nor ", kIndex,
                       "; name the folder of a model saved as safetensors"));
    }
    absl::StatusOr<SafetensorsFile> file = SafetensorsFile::Open(single);
    if (!file.ok()) return file.status();
    for (size_t i = 0; i < file->tensors().size(); ++i) {
      result.by_name_[file->tensors()[i].name] = {0, i};
    }
    result.shards_.push_back(std::move(*file));
    return result;
  }

  const absl::StatusOr<std::map<std::string, std::string>> index =
      ReadIndex(index_path);
  if (!index.ok()) return index.status();
  std::set<std::string> names;
  for (const auto& [tensor, file] : *index) names.insert(file);
  for (const std::string& name : names) {
    const std::string path = JoinPath(folder, name);
    absl::StatusOr<SafetensorsFile> shard = SafetensorsFile::Open(path);
    if (!shard.ok()) return shard.status();
    for (size_t i = 0; i < shard->tensors().size(); ++i) {
      const std::string& tensor = shard->tensors()[i].name;
      const auto listed = index->find(tensor);
      if (listed == index->end() || listed->second != name) {
        return absl::InvalidArgumentError(absl::StrCat(
            path, " holds tensor ", Quoted(tensor), ", which ", kIndex,
            listed == index->end() ? " does not list" : " puts elsewhere",
            "; shards of two exports are mixed: export the model again"));
      }
      result.by_name_[tensor] = {result.shards_.size(), i};
    }
    result.shards_.push_back(std::move(*shard));
  }
  for (const auto& [tensor, file] : *index) {
    if (result.by_name_.count(tensor) == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          JoinPath(folder, file), " lacks tensor ", Quoted(tensor), ", which ",
          kIndex, " puts there; export the model again"));
    }
  }
  return result;
}

const TensorView* SafetensorsFolder::Find(absl::string_view name) const {
  const auto it = by_name_.find(name);
  if (it == by_name_.end()) return nullptr;
  return &shards_[it->second.first].tensors()[it->second.second];
}

std::vector<std::string> SafetensorsFolder::Names() const {
  std::vector<std::string> names;
  names.reserve(by_name_.size());
  for (const auto& [name, place] : by_name_) names.push_back(name);
  return names;
}

absl::Status CopyAsFloat(const TensorView& tensor, absl::Span<float> out) {
  const int64_t n = tensor.elements();
  CARRY_CHECK(static_cast<int64_t>(out.size()) == n);
  const uint8_t* p = tensor.data;
  switch (tensor.dtype) {
    case DType::kF32:
      if (n > 0) std::memcpy(out.data(), p, tensor.bytes);
      return absl::OkStatus();
    case DType::kBF16:
      for (int64_t i = 0; i < n; ++i) {
        BFloat16 x;
        std::memcpy(&x, p + 2 * i, 2);
        out[i] = ToFloat(x);
      }
      return absl::OkStatus();
    case DType::kF64:
      for (int64_t i = 0; i < n; ++i) {
        double x;
        std::memcpy(&x, p + 8 * i, 8);
        out[i] = static_cast<float>(x);
      }
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor ", Quoted(tensor.name), " has dtype ", Name(tensor.dtype),
          " where F32, BF16 or F64 is expected"));
  }
}

absl::Status WriteSafetensors(
    const std::string& path, absl::Span<const TensorToWrite> tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<const TensorToWrite*> order;
  for (const TensorToWrite& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(),
            [](const TensorToWrite* a, const TensorToWrite* b) {
              return std::pair(-SizeOf(a->dtype), absl::string_view(a->name)) <
                     std::pair(-SizeOf(b->dtype), absl::string_view(b->name));
            });
  Json header = Json::object();
  Json& strings = header[kMetadata];
  strings = Json::object();
  strings["format"] = "pt";
  for (const auto& [key, value] : metadata) strings[key] = value;
  int64_t offset = 0;
  std::vector<int64_t> sizes;
  for (const TensorToWrite* tensor : order) {
    CARRY_CHECK(!header.contains(tensor->name));
    int64_t bytes = SizeOf(tensor->dtype);
    for (const int64_t size : tensor->shape) {
      CARRY_CHECK(size >= 0);
      CARRY_CHECK(!__builtin_mul_overflow(bytes, size, &bytes));
    }
    sizes.push_back(bytes);
    header[tensor->name] = {{"dtype", Name(tensor->dtype)},
                            {"shape", tensor->shape},
                            {"data_offsets", {offset, offset + bytes}}};
    offset += bytes;
  }
  std::string text =
      header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.resize((text.size() + 7) / 8 * 8, ' ');

  absl::StatusOr<OutputFile> file = OutputFile::Create(path);
  if (!file.ok()) return file.status();
  absl::Status s = file->Append(StoreU64(text.size()));
  if (s.ok()) s = file->Append(text);
  std::vector<char> copied;
  for (size_t i = 0; s.ok() && i < order.size(); ++i) {
    const void* data = order[i]->data;
    if (order[i]->copy) {
      copied.resize(sizes[i]);
      s = order[i]->copy(copied.data());
      if (!s.ok()) return s;
      data = copied.data();
    }
    s = file->Append(data, sizes[i]);
  }
  return s.ok() ? file->Commit() : s;
}

}  // namespace carry
