// Checkpoint folders: how they come to be, whole or not at all, and how a
// damaged one is told from a good one. What the files in them mean is not
// known here. The manifest's grammar is in README.md.
//
// Below a run's folder, `step-000020` is the checkpoint after step 20. It is
// written as `step-000020.tmp-<pid>`, each file synced, `manifest.json` last;
// the rename that takes the suffix away is the commit. A crash or a full disk
// before it leaves the checkpoints that were there.
//
// Functions may be called from any thread; on one folder from one at a time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace carry {

struct CheckpointFile {
  std::string name;      // Letters, digits and . _ - only; not hidden.
  int64_t size = 0;      // In bytes.
  std::string checksum;  // XXH3-128, 32 hexadecimal digits.
};

struct CheckpointManifest {
  int64_t step = 0;
  std::string program;  // Name and version of what wrote it.
  std::vector<CheckpointFile> files;
};

std::string ManifestText(const CheckpointManifest& manifest);
absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text,
                                                 const std::string& path);

// "step-000020".
std::string CheckpointName(int64_t step);

// Syncs `name` in `folder` and reads it for its size and checksum. A rank that
// wrote a file of its own calls this and sends the result to the writer.
absl::StatusOr<CheckpointFile> DescribeFile(const std::string& folder,
                                            const std::string& name);

// Writes one checkpoint. Destroyed before Commit, it leaves nothing behind.
class CheckpointWriter {
 public:
  // Creates the temporary folder. kResourceExhausted where the file system has
  // fewer than `expected_bytes` left. REQUIRES: step >= 0.
  static absl::StatusOr<CheckpointWriter> Create(const std::string& run_folder,
                                                 int64_t step,
                                                 const std::string& program,
                                                 int64_t expected_bytes = 0);
  CheckpointWriter(CheckpointWriter&& other) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) = delete;
  ~CheckpointWriter();

  // Where files are written to until Commit.
  const std::string& folder() const { return temporary_; }
  std::string PathOf(const std::string& name) const;

  // REQUIRES for all three: the name is one of CheckpointFile, is not
  // "manifest.json" and was not added before.
  absl::Status AddFile(const std::string& name, absl::string_view bytes);
  // A file that the caller has written to PathOf(name).
  absl::Status AddWritten(const std::string& name);
  // A file that another process has written to folder() and described.
  absl::Status AddDescribed(const CheckpointFile& file);

  // Returns the checkpoint's path. One of the same step is replaced. After an
  // error only destruction is of use.
  absl::StatusOr<std::string> Commit();

 private:
  CheckpointWriter(std::string path, std::string temporary,
                   CheckpointManifest manifest);

  std::string path_;
  std::string temporary_;  // Empty once committed.
  CheckpointManifest manifest_;
};

// Reads all files and compares them with the manifest. Errors name the first
// file that is missing, truncated, altered or not in the manifest.
absl::StatusOr<CheckpointManifest> VerifyCheckpoint(const std::string& path);

struct FoundCheckpoint {
  std::string path;
  CheckpointManifest manifest;
  // Why newer ones were passed over, newest first.
  std::vector<std::string> skipped;
};

// The newest committed checkpoint that verifies. Temporary folders do not
// count. kNotFound where there is none, with what was passed over.
absl::StatusOr<FoundCheckpoint> FindNewestCheckpoint(
    const std::string& run_folder);

// Steps of the committed checkpoints, ascending, without a look inside.
absl::StatusOr<std::vector<int64_t>> ListCheckpoints(
    const std::string& run_folder);

// Removes all but the newest `keep` committed checkpoints; 0 keeps all.
absl::Status PruneCheckpoints(const std::string& run_folder, int64_t keep);

// Removes what crashed writers left; not what a process of this machine that
// still runs is writing. No error where the run's folder does not exist.
absl::Status RemoveStaleTemporaries(const std::string& run_folder);

}  // namespace carry
