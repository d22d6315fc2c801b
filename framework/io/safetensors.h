// safetensors: named tensors in one file, or in a folder of shards, as Hugging
// Face's libraries read and write them. The grammar is in README.md.
//
//   u64le H | H bytes of JSON, padded with spaces | tensor bytes
//
// Readers and their views may be used from any thread. A view points into the
// mapped file and lives as long as the reader that it came from, or the one
// that it was moved to.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "framework/io/file.h"
#include "kernels/types.h"

namespace carry {

// A tensor of a file: row-major, little-endian. `data` has no alignment (the
// header may have any length): copy it, do not cast it.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  int64_t bytes = 0;

  int64_t elements() const { return bytes / SizeOf(dtype); }
};

// Converts F32, BF16 or F64 (rounded to nearest) to fp32. kInvalidArgument for
// another dtype. REQUIRES: out.size() == tensor.elements().
absl::Status CopyAsFloat(const TensorView& tensor, absl::Span<float> out);

// Reads the header of a file with these bytes; `path` is for messages. Checks
// all that can be checked: lengths against the file's size, types, dtypes,
// bytes against shapes (no overflow of 64 bits), offsets that neither overlap
// nor leave holes, names that come once. Tensors are in the order of their
// offsets. kUnimplemented: a dtype that Carry does not compute with.
absl::StatusOr<std::vector<TensorView>> ParseSafetensors(
    absl::string_view file, const std::string& path,
    std::map<std::string, std::string>* metadata = nullptr);

// One mapped file.
class SafetensorsFile {
 public:
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);

  const std::string& path() const { return file_.path(); }
  // In the order of their offsets.
  const std::vector<TensorView>& tensors() const { return tensors_; }
  // nullptr where there is none of this name.
  const TensorView* Find(absl::string_view name) const;
  // The strings under "__metadata__".
  const std::map<std::string, std::string>& metadata() const {
    return metadata_;
  }

 private:
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> by_name_;
  std::map<std::string, std::string> metadata_;
};

// The tensors of a model's folder: `model.safetensors` or else the shards that
// `model.safetensors.index.json` lists.
class SafetensorsFolder {
 public:
  static absl::StatusOr<SafetensorsFolder> Open(const std::string& folder);

  // nullptr where there is none of this name.
  const TensorView* Find(absl::string_view name) const;
  // All names, sorted.
  std::vector<std::string> Names() const;

 private:
  std::vector<SafetensorsFile> shards_;
  // Name -> (shard, tensor).
  std::map<std::string, std::pair<size_t, size_t>, std::less<>> by_name_;
};

// A tensor to write: row-major and contiguous.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  // Where the data are not in host memory: copies all of them to `out`.
  std::function<absl::Status(void* out)> copy = nullptr;
};

// Writes `path` atomically (see OutputFile). Wide elements come first, then by
// name, and the data begin at a multiple of 8, so that each tensor is aligned
// to its element. "format": "pt" joins `metadata` unless it is set there.
// REQUIRES: names are distinct, not "__metadata__", and UTF-8; sizes fit 64
// bits.
absl::Status WriteSafetensors(
    const std::string& path, absl::Span<const TensorToWrite> tensors,
    const std::map<std::string, std::string>& metadata = {});

}  // namespace carry
