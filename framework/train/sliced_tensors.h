// Tensors that several ranks keep in parts, in safetensors.
//
// Each rank writes what it has into a file of its own. A tensor that is there
// in full has its name and shape; a part of it is flat and named after the
// elements that it holds, as in `m.backbone.norm_f.weight[0:512]`. A reader
// takes what it needs from all files, so a checkpoint of one mesh loads on any
// other.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "framework/io/safetensors.h"
#include "framework/tensor.h"

namespace carry {

// "optimizer.safetensors" for one rank, else
// "optimizer-00002-of-00004.safetensors" for rank 1 of 4.
std::string SlicedFileName(const std::string& stem, int rank, int ranks);

// Elements [begin, end) of a tensor `name` of shape `shape`; `data` are they.
TensorToWrite SliceToWrite(const std::string& name, const Shape& shape,
                           int64_t begin, int64_t end, const Tensor& data);

class SlicedReader {
 public:
  // All files of `stem` in the folder. kNotFound if there is none.
  static absl::StatusOr<SlicedReader> Open(const std::string& folder,
                                           const std::string& stem);

  // Copies elements [begin, end) of `name` to a dense tensor. An error names
  // the tensor if its size is not that of `shape`, or if elements are in no
  // file.
  absl::Status Read(const std::string& name, const Shape& shape, int64_t begin,
                    int64_t end, const Tensor& out) const;

 private:
  struct Piece {
    int64_t begin, end;
    const TensorView* view;
    bool whole;
  };
  std::string folder_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, std::vector<Piece>> pieces_;
};

}  // namespace carry
