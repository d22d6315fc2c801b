#include "framework/train/sliced_tensors.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "framework/io/file.h"
#include "framework/nn/weights.h"

namespace carry {
namespace {

// Splits "name[begin:end]"; false where `text` has no such ending.
bool ParseSlice(const std::string& text, std::string* name, int64_t* begin,
                int64_t* end) {
  const size_t open = text.rfind('[');
  if (open == std::string::npos || text.back() != ']') return false;
  const std::vector<std::string> bounds =
      absl::StrSplit(text.substr(open + 1, text.size() - open - 2), ':');
  if (bounds.size() != 2 || !absl::SimpleAtoi(bounds[0], begin) ||
      !absl::SimpleAtoi(bounds[1], end)) {
    return false;
  }
  *name = text.substr(0, open);
  return *begin >= 0 && *begin < *end;
}

}  // namespace

std::string SlicedFileName(const std::string& stem, int rank, int ranks) {
  return ranks == 1 ? stem + ".safetensors"
                    : absl::StrFormat("%s-%05d-of-%05d.safetensors", stem,
                                      rank + 1, ranks);
}

TensorToWrite SliceToWrite(const std::string& name, const Shape& shape,
                           int64_t begin, int64_t end, const Tensor& data) {
  if (begin == 0 && end == Product(shape)) {
    return ToWrite(name, shape, data);
  }
  return ToWrite(absl::StrCat(name, "[", begin, ":", end, "]"), {end - begin},
                 data);
}

absl::StatusOr<SlicedReader> SlicedReader::Open(const std::string& folder,
                                                const std::string& stem) {
  absl::StatusOr<std::vector<std::string>> names = ListDirectory(folder);
  if (!names.ok()) return names.status();
  SlicedReader reader;
  reader.folder_ = folder;
  for (const std::string& name : *names) {
    if (name != stem + ".safetensors" &&
        !(absl::StartsWith(name, stem + "-") &&
          absl::EndsWith(name, ".safetensors"))) {
      continue;
    }
    absl::StatusOr<SafetensorsFile> file =
        SafetensorsFile::Open(JoinPath(folder, name));
    if (!file.ok()) return file.status();
    reader.files_.push_back(*std::move(file));
  }
  if (reader.files_.empty()) {
    return absl::NotFoundError(
        absl::StrCat(folder, ": there is no ", stem,
                     ".safetensors; the checkpoint holds a "
                     "model to load, not a run to resume"));
  }
  for (const SafetensorsFile& file : reader.files_) {
    for (const TensorView& view : file.tensors()) {
      std::string name;
      Piece piece{0, view.elements(), &view, true};
      if (ParseSlice(view.name, &name, &piece.begin, &piece.end)) {
        piece.whole = false;
        if (piece.end - piece.begin != view.elements()) {
          return absl::DataLossError(
              absl::StrCat(file.path(), ": ", view.name, " holds ",
                           view.elements(), " elements; the file is damaged"));
        }
      } else {
        name = view.name;
      }
      reader.pieces_[name].push_back(piece);
    }
  }
  return reader;
}

absl::Status SlicedReader::Read(const std::string& name, const Shape& shape,
                                int64_t begin, int64_t end,
                                const Tensor& out) const {
  const auto it = pieces_.find(name);
  if (it == pieces_.end()) {
    return absl::NotFoundError(
        absl::StrCat(folder_, ": there is no tensor ", name,
                     "; the checkpoint is of another model"));
  }
  const int64_t size = Product(shape);
  std::vector<Piece> pieces = it->second;
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  int64_t next = begin;  // the first element that is not copied yet
  for (const Piece& piece : pieces) {
    if ((piece.whole && piece.view->shape != shape) || piece.end > size) {
      return absl::InvalidArgumentError(absl::StrCat(
          folder_, ": ", piece.view->name, " has shape ",
          ToString(piece.view->shape), ", this recipe wants ", ToString(shape),
          "; resume with the recipe that the checkpoint holds"));
    }
    const int64_t stop = std::min(end, piece.end);
    if (piece.begin > next || stop <= next) continue;
    std::vector<float> values(piece.view->elements());
    absl::Status status = CopyAsFloat(*piece.view, absl::MakeSpan(values));
    if (!status.ok()) return status;
    out.backend().FromHost(out.f32() + (next - begin),
                           values.data() + (next - piece.begin),
                           (stop - next) * sizeof(float));
    next = stop;
  }
  if (next >= end) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(folder_, ": elements [", next, ":", end, "] of ", name,
                   " are in no file; the checkpoint is incomplete"));
}

}  // namespace carry
