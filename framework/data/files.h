// Which files a recipe means, and which of them are held out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace carry {

struct DataFile {
  std::string path;  // As opened.
  // Below the input that it was found by: a directory, the part of a glob
  // before its first wildcard, or the folder of a file that was named.
  std::string relative;
  int64_t size = 0;  // In bytes, at least 1.
};

// Files, directories and globs (* ? [ ] { } and a leading ~) as a list sorted
// by path, each file once. A directory is searched recursively for names that
// end in one of `extensions` (all names where there are none); what is hidden
// (.name), empty or no regular file is passed over there, and links to
// directories are followed, each directory once. What was named itself must be
// a readable file with at least one byte. Errors: kNotFound and
// kPermissionDenied with the path, kInvalidArgument for what matches nothing.
absl::StatusOr<std::vector<DataFile>> ExpandFiles(
    absl::Span<const std::string> inputs,
    absl::Span<const std::string> extensions);

// Whether a file is held out: a function of `seed`, `relative` and `fraction`
// alone, so that a file stays on its side as others come and go.
bool IsHeldOut(const std::string& relative, double fraction, uint64_t seed);

struct FileSplit {
  std::vector<DataFile> train;
  std::vector<DataFile> held_out;
};

// REQUIRES: 0 <= fraction <= 1. kInvalidArgument where a side that is asked
// for gets no file.
absl::StatusOr<FileSplit> SplitFiles(const std::vector<DataFile>& files,
                                     double fraction, uint64_t seed);

// `files` without those that are the same file as one of `held_out`, under
// whatever name (device and inode decide). kInvalidArgument if none is left.
absl::StatusOr<std::vector<DataFile>> WithoutHeldOut(
    const std::vector<DataFile>& files, const std::vector<DataFile>& held_out);

}  // namespace carry
