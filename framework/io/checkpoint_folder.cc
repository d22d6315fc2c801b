#include "framework/io/checkpoint_folder.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "framework/io/file.h"
#include "framework/io/json.h"
#include "kernels/check.h"
#include "xxhash.h"

namespace carry {
namespace {

constexpr char kManifest[] = "manifest.json";
constexpr char kFormat[] = "carry-checkpoint";
constexpr int64_t kVersion = 1;
constexpr int64_t kMaxManifest = int64_t{1} << 26;
constexpr char kPrefix[] = "step-";
constexpr char kTemporary[] = ".tmp-";

bool IsFileName(absl::string_view name) {
  if (name.empty() || name.size() > 200 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' ||
           c == '_' || c == '-';
  });
}

bool IsChecksum(absl::string_view text) {
  return text.size() == 32 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

absl::StatusOr<CheckpointFile> Describe(const std::string& folder,
                                        const std::string& name) {
  const absl::StatusOr<MappedFile> file =
      MappedFile::Open(JoinPath(folder, name));
  if (!file.ok()) return file.status();
  const XXH128_hash_t hash = XXH3_128bits(file->data(), file->size());
  return CheckpointFile{name, file->size(),
                        absl::StrCat(absl::Hex(hash.high64, absl::kZeroPad16),
                                     absl::Hex(hash.low64, absl::kZeroPad16))};
}

// The step that a committed checkpoint's name says; false for other names.
bool StepOf(const std::string& name, int64_t* step) {
  return absl::StartsWith(name, kPrefix) &&
         absl::SimpleAtoi(name.substr(sizeof(kPrefix) - 1), step) &&
         *step >= 0 && CheckpointName(*step) == name;
}

// The process that writes, or removes, the temporary folder of this name.
bool WriterOf(const std::string& name, int64_t* pid) {
  const size_t at = name.find(kTemporary);
  int64_t step = 0;
  return at != std::string::npos && StepOf(name.substr(0, at), &step) &&
         absl::SimpleAtoi(name.substr(at + sizeof(kTemporary) - 1), pid) &&
         *pid > 0;
}

std::string TemporaryName(const std::string& path) {
  return absl::StrCat(path, kTemporary, getpid());
}

// Makes `temporary` the folder `path`, which may exist.
absl::Status Replace(const std::string& temporary, const std::string& path) {
  if (!PathExists(path)) return Rename(temporary, path);
  // At each moment there is a whole checkpoint under `path`.
  if (renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(),
                RENAME_EXCHANGE) == 0) {
    absl::Status s = SyncPath(ParentPath(path));
    return s.ok() ? RemoveRecursively(temporary) : s;
  }
  if (errno != EINVAL && errno != ENOSYS) {
    return ErrnoStatus("replace", path, errno);
  }
  // A file system that cannot exchange: a crash between the two renames leaves
  // the checkpoints of other steps.
  const std::string old = absl::StrCat(path, kTemporary, getpid(), "0");
  absl::Status s = Rename(path, old);
  if (s.ok()) s = Rename(temporary, path);
  return s.ok() ? RemoveRecursively(old) : s;
}

absl::Status ManifestError(const std::string& path, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": ", what, "; the checkpoint is damaged: use another one"));
}

absl::StatusOr<CheckpointFile> ParseEntry(const Json& json,
                                          const std::string& path) {
  if (!json.is_object() || !json.contains("name") || !json.contains("size") ||
      !json.contains("xxh3_128") || !json["name"].is_string() ||
      !json["xxh3_128"].is_string()) {
    return ManifestError(path,
                         "an entry of \"files\" has no name, size and "
                         "xxh3_128");
  }
  CheckpointFile file;
  file.name = json["name"].get<std::string>();
  if (!IsFileName(file.name) || file.name == kManifest) {
    return ManifestError(path, absl::StrCat("it lists ", Quoted(file.name),
                                            ", which is no name of a file of "
                                            "a checkpoint"));
  }
  const absl::StatusOr<int64_t> size =
      JsonSize(json["size"], absl::StrCat(path, ": size of ", file.name));
  if (!size.ok()) return size.status();
  file.size = *size;
  file.checksum = json["xxh3_128"].get<std::string>();
  if (!IsChecksum(file.checksum)) {
    return ManifestError(path, absl::StrCat("the xxh3_128 of ", file.name,
                                            " is not 32 hexadecimal digits"));
  }
  return file;
}

}  // namespace

std::string CheckpointName(int64_t step) {
  return absl::StrFormat("%s%06d", kPrefix, step);
}

std::string ManifestText(const CheckpointManifest& manifest) {
  Json files = Json::array();
  for (const CheckpointFile& file : manifest.files) {
    files.push_back({{"name", file.name},
                     {"size", file.size},
                     {"xxh3_128", file.checksum}});
  }
  const Json json = {{"format", kFormat},
                     {"version", kVersion},
                     {"step", manifest.step},
                     {"program", manifest.program},
                     {"files", files}};
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<CheckpointManifest> ParseManifest(absl::string_view text,
                                                 const std::string& path) {
  const absl::StatusOr<Json> json = ParseJson(text, path);
  if (!json.ok()) return json.status();
  if (!json->is_object() || !json->contains("format") ||
      (*json)["format"] != kFormat) {
    return ManifestError(
        path, absl::StrCat("its \"format\" is not ", Quoted(kFormat)));
  }
  for (const char* key : {"version", "step", "program", "files"}) {
    if (!json->contains(key)) {
      return ManifestError(path, absl::StrCat("it has no \"", key, "\""));
    }
  }
  if ((*json)["version"] != kVersion) {
    return absl::UnimplementedError(
        absl::StrCat(path, ": is of version ",
                     Quoted((*json)["version"].dump(
                         -1, ' ', true, Json::error_handler_t::replace)),
                     "; this program reads version ", kVersion,
                     ": use the program that wrote it"));
  }
  CheckpointManifest manifest;
  const absl::StatusOr<int64_t> step =
      JsonSize((*json)["step"], absl::StrCat(path, ": \"step\""));
  if (!step.ok()) return step.status();
  manifest.step = *step;
  if (!(*json)["program"].is_string()) {
    return ManifestError(path, "its \"program\" is not a string");
  }
  manifest.program = (*json)["program"].get<std::string>();
  if (!(*json)["files"].is_array()) {
    return ManifestError(path, "its \"files\" is not an array");
  }
  std::set<std::string> names;
  for (const Json& entry : (*json)["files"]) {
    absl::StatusOr<CheckpointFile> file = ParseEntry(entry, path);
    if (!file.ok()) return file.status();
    if (!names.insert(file->name).second) {
      return ManifestError(path, absl::StrCat(file->name, " comes twice"));
    }
    manifest.files.push_back(std::move(*file));
  }
  return manifest;
}

absl::StatusOr<CheckpointFile> DescribeFile(const std::string& folder,
                                            const std::string& name) {
  absl::Status s = SyncPath(JoinPath(folder, name));
  if (!s.ok()) return s;
  return Describe(folder, name);
}

absl::StatusOr<CheckpointWriter> CheckpointWriter::Create(
    const std::string& run_folder, int64_t step, const std::string& program,
    int64_t expected_bytes) {
  CARRY_CHECK(step >= 0);
  absl::Status s = MakeDirectories(run_folder);
  if (!s.ok()) return s;
  const absl::StatusOr<int64_t> free = FreeSpace(run_folder);
  if (!free.ok()) return free.status();
  if (*free < expected_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a checkpoint needs ", expected_bytes, " bytes, but ",
                     run_folder, " has ", *free,
                     " left; free some space, keep fewer checkpoints "
                     "(checkpoint.keep) or write to another disk (--out)"));
  }
  const std::string path = JoinPath(run_folder, CheckpointName(step));
  const std::string temporary = TemporaryName(path);
  s = RemoveRecursively(temporary);
  if (s.ok()) s = MakeDirectories(temporary);
  if (!s.ok()) return s;
  return CheckpointWriter(path, temporary, {step, program, {}});
}

CheckpointWriter::CheckpointWriter(std::string path, std::string temporary,
                                   CheckpointManifest manifest)
    : path_(std::move(path)),
      temporary_(std::move(temporary)),
      manifest_(std::move(manifest)) {}

CheckpointWriter::CheckpointWriter(CheckpointWriter&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, std::string())),
      manifest_(std::move(other.manifest_)) {}

CheckpointWriter::~CheckpointWriter() {
  // What cannot be removed now, RemoveStaleTemporaries removes later.
  if (!temporary_.empty()) RemoveRecursively(temporary_).IgnoreError();
}

std::string CheckpointWriter::PathOf(const std::string& name) const {
  return JoinPath(temporary_, name);
}

absl::Status CheckpointWriter::AddFile(const std::string& name,
                                       absl::string_view bytes) {
  absl::Status s = WriteFileAtomically(PathOf(name), bytes);
  return s.ok() ? AddWritten(name) : s;
}

absl::Status CheckpointWriter::AddWritten(const std::string& name) {
  absl::StatusOr<CheckpointFile> file = DescribeFile(temporary_, name);
  return file.ok() ? AddDescribed(*file) : file.status();
}

absl::Status CheckpointWriter::AddDescribed(const CheckpointFile& file) {
  CARRY_CHECK(IsFileName(file.name) && file.name != kManifest);
  for (const CheckpointFile& other : manifest_.files) {
    CARRY_CHECK(other.name != file.name);
  }
  const absl::StatusOr<int64_t> size = FileSize(PathOf(file.name));
  if (!size.ok()) return size.status();
  if (*size != file.size || !IsChecksum(file.checksum)) {
    return absl::InternalError(absl::StrCat(
        PathOf(file.name), " has ", *size, " bytes where its writer describes ",
        file.size, "; check that all ranks see the same file system"));
  }
  manifest_.files.push_back(file);
  return absl::OkStatus();
}

absl::StatusOr<std::string> CheckpointWriter::Commit() {
  CARRY_CHECK(!temporary_.empty());
  std::sort(manifest_.files.begin(), manifest_.files.end(),
            [](const CheckpointFile& a, const CheckpointFile& b) {
              return a.name < b.name;
            });
  // This syncs the folder too.
  absl::Status s =
      WriteFileAtomically(PathOf(kManifest), ManifestText(manifest_));
  if (s.ok()) s = Replace(temporary_, path_);
  if (!s.ok()) return s;
  temporary_.clear();
  return path_;
}

absl::StatusOr<CheckpointManifest> VerifyCheckpoint(const std::string& path) {
  const std::string manifest_path = JoinPath(path, kManifest);
  const absl::StatusOr<std::string> text =
      ReadFile(manifest_path, kMaxManifest);
  if (!text.ok()) return text.status();
  absl::StatusOr<CheckpointManifest> manifest =
      ParseManifest(*text, manifest_path);
  if (!manifest.ok()) return manifest.status();
  std::set<std::string> names = {kManifest};
  for (const CheckpointFile& file : manifest->files) {
    names.insert(file.name);
    const absl::StatusOr<CheckpointFile> actual = Describe(path, file.name);
    if (!actual.ok()) return actual.status();
    const std::string where = JoinPath(path, file.name);
    if (actual->size != file.size) {
      return ManifestError(
          where, absl::StrCat("has ", actual->size,
                              " bytes where the manifest "
                              "has ",
                              file.size,
                              actual->size < file.size ? " (truncated)" : ""));
    }
    if (actual->checksum != file.checksum) {
      return ManifestError(where, "was altered (its checksum differs)");
    }
  }
  const absl::StatusOr<std::vector<std::string>> present = ListDirectory(path);
  if (!present.ok()) return present.status();
  for (const std::string& name : *present) {
    if (names.count(name) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(JoinPath(path, name),
                       ": is not in the manifest; move it out of the "
                       "checkpoint's folder"));
    }
  }
  return manifest;
}

absl::StatusOr<std::vector<int64_t>> ListCheckpoints(
    const std::string& run_folder) {
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(run_folder);
  if (!names.ok()) return names.status();
  std::vector<int64_t> steps;
  for (const std::string& name : *names) {
    int64_t step = 0;
    if (StepOf(name, &step)) steps.push_back(step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

absl::StatusOr<FoundCheckpoint> FindNewestCheckpoint(
    const std::string& run_folder) {
  const absl::StatusOr<std::vector<int64_t>> steps =
      ListCheckpoints(run_folder);
  if (!steps.ok()) return steps.status();
  FoundCheckpoint found;
  for (auto step = steps->rbegin(); step != steps->rend(); ++step) {
    found.path = JoinPath(run_folder, CheckpointName(*step));
    absl::StatusOr<CheckpointManifest> manifest = VerifyCheckpoint(found.path);
    if (manifest.ok() && manifest->step != *step) {
      manifest = ManifestError(
          found.path, absl::StrCat("its manifest is of step ", manifest->step));
    }
    if (manifest.ok()) {
      found.manifest = std::move(*manifest);
      return found;
    }
    found.skipped.emplace_back(manifest.status().message());
  }
  return absl::NotFoundError(absl::StrCat(
      run_folder, " holds no ", steps->empty() ? "" : "undamaged ",
      "checkpoint",
      found.skipped.empty()
          ? ""
          : absl::StrCat(" (passed over: ", absl::StrJoin(found.skipped, "; "),
                         ")"),
      "; check the path, or start without --resume"));
}

absl::Status PruneCheckpoints(const std::string& run_folder, int64_t keep) {
  CARRY_CHECK(keep >= 0);
  const absl::StatusOr<std::vector<int64_t>> steps =
      ListCheckpoints(run_folder);
  if (!steps.ok()) return steps.status();
  if (keep == 0) return absl::OkStatus();
  const int64_t surplus = static_cast<int64_t>(steps->size()) - keep;
  for (int64_t i = 0; i < surplus; ++i) {
    const std::string path = JoinPath(run_folder, CheckpointName((*steps)[i]));
    // Renamed first, so that no half of it ever bears a checkpoint's name.
    const std::string doomed = TemporaryName(path);
    absl::Status s = Rename(path, doomed);
    if (s.ok()) s = RemoveRecursively(doomed);
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status RemoveStaleTemporaries(const std::string& run_folder) {
  if (!PathExists(run_folder)) return absl::OkStatus();
  const absl::StatusOr<std::vector<std::string>> names =
      ListDirectory(run_folder);
  if (!names.ok()) return names.status();
  for (const std::string& name : *names) {
    int64_t pid = 0;
    if (!WriterOf(name, &pid)) continue;
    const bool other = pid != getpid() && pid <= INT32_MAX;
    if (other && (kill(static_cast<pid_t>(pid), 0) == 0 || errno == EPERM)) {
      continue;
    }
    absl::Status s = RemoveRecursively(JoinPath(run_folder, name));
    if (!s.ok()) return s;
  }
  return absl::OkStatus();
}

}  // namespace carry
