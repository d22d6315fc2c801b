// Files: whole reads, mapped reads, and writes that appear complete or not at
// all.
//
// Every error names the path, what failed and what to do. Functions are safe
// to call from several threads on different paths; a MappedFile may be read
// from any thread, an OutputFile belongs to one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace carry {

// `action` ("open", "write") on `path` failed with `error` (an errno). A full
// disk or quota is kResourceExhausted, a missing path kNotFound.
absl::Status ErrnoStatus(absl::string_view action, const std::string& path,
                         int error);

// The bytes of a regular file of at most `max_bytes`; map larger ones.
absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes = int64_t{1} << 30);

// Replaces `path` by a file with these bytes: after a crash at any moment the
// path holds the old bytes or the new ones.
absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view bytes);

// A regular file mapped read-only. An empty file maps to no bytes. Whoever
// truncates a mapped file kills its readers (SIGBUS), as with any mapping.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }
  absl::string_view bytes() const {
    return {reinterpret_cast<const char*>(data_), static_cast<size_t>(size_)};
  }

 private:
  void Unmap();

  std::string path_;
  const uint8_t* data_ = nullptr;
  int64_t size_ = 0;
};

// A file that is written from front to back under a name of its own,
// `<path>.tmp-<pid>`, and takes its name in Commit. Destroyed before that, it
// leaves nothing behind. After an error only destruction is of use.
class OutputFile {
 public:
  static absl::StatusOr<OutputFile> Create(const std::string& path);

  OutputFile(OutputFile&& other) noexcept;
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile();

  absl::Status Append(const void* data, int64_t size);
  absl::Status Append(absl::string_view bytes);
  // Overwrites bytes that were appended before, such as a header whose counts
  // are known at the end. REQUIRES: offset + bytes.size() <= size().
  absl::Status Rewrite(int64_t offset, absl::string_view bytes);
  // Bytes appended so far.
  int64_t size() const { return size_; }

  // Flushes, fsyncs, renames and fsyncs the folder.
  absl::Status Commit();

 private:
  OutputFile(std::string path, std::string temporary, int fd);
  absl::Status Flush();

  std::string path_;
  std::string temporary_;  // Empty once committed.
  int fd_ = -1;
  int64_t size_ = 0;
  std::string buffer_;
};

bool PathExists(const std::string& path);  // Of any kind; follows links.
bool IsDirectory(const std::string& path);
bool IsRegularFile(const std::string& path);

// Bytes in a regular file.
absl::StatusOr<int64_t> FileSize(const std::string& path);
// Names (without the folder), sorted.
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);
// Creates the folder and those above it; no error where it exists.
absl::Status MakeDirectories(const std::string& path);
// Removes a file or a folder with all in it; no error where there is none.
absl::Status RemoveRecursively(const std::string& path);
// Renames within one file system and fsyncs the folders of both names.
absl::Status Rename(const std::string& from, const std::string& to);
// Makes what was written, or created and renamed in a folder, survive a crash.
absl::Status SyncPath(const std::string& path);
// Bytes that this user may still write to the file system of `path`.
absl::StatusOr<int64_t> FreeSpace(const std::string& path);

// "a/b" from ("a", "b"); `name` alone where `folder` is empty.
std::string JoinPath(absl::string_view folder, absl::string_view name);
// The part before the last slash, "." where there is none.
std::string ParentPath(const std::string& path);

}  // namespace carry
