#include "framework/data/files.h"

#include <dirent.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "framework/io/file.h"
#include "framework/random.h"
#include "kernels/check.h"

namespace carry {
namespace {

using Identity = std::pair<dev_t, ino_t>;

struct Found {
  DataFile file;
  Identity identity;
  bool through_link;  // Reached through a link, to a file or a directory.
};

class Search {
 public:
  explicit Search(absl::Span<const std::string> extensions)
      : extensions_(extensions) {}

  absl::Status Add(const std::string& input) {
    if (input.empty()) {
      return absl::InvalidArgumentError(
          "an empty path among the data files; remove it");
    }
    if (input.find_first_of("*?[{") == std::string::npos &&
        input.front() != '~') {
      return AddNamed(input, ParentPath(input));
    }
    if (PathExists(input)) return AddNamed(input, ParentPath(input));
    return AddGlob(input);
  }

  std::vector<Found> Take() { return std::move(found_); }

 private:
  struct Folder {
    std::string path;
    std::string relative;  // Empty or ending in a slash.
    bool through_link;
  };

  absl::Status AddNamed(const std::string& path, const std::string& root) {
    struct stat info;
    if (stat(path.c_str(), &info) != 0) {
      return ErrnoStatus("open data", path, errno);
    }
    if (S_ISDIR(info.st_mode)) return AddDirectory(path);
    if (!S_ISREG(info.st_mode)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is not a regular file; name files, directories or globs"));
    }
    if (info.st_size == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " is empty; remove it from the data files"));
    }
    // A root of "." or "/" and the like: keep what follows it.
    std::string relative = path;
    const std::string prefix = JoinPath(root, "");
    if (absl::StartsWith(path, prefix)) relative = path.substr(prefix.size());
    return AddFile(path, relative, info, /*through_link=*/false);
  }

  absl::Status AddGlob(const std::string& pattern) {
    glob_t matches = {};
    const int error =
        glob(pattern.c_str(), GLOB_BRACE | GLOB_TILDE, nullptr, &matches);
    std::vector<std::string> paths(matches.gl_pathv,
                                   matches.gl_pathv + matches.gl_pathc);
    globfree(&matches);
    if (error == GLOB_NOSPACE) {
      return absl::ResourceExhaustedError(
          absl::StrCat("out of memory matching ", pattern));
    }
    if (paths.empty()) {
      return absl::NotFoundError(absl::StrCat(
          pattern, " matches no file; check path and permissions (ls ", pattern,
          ")"));
    }
    const std::string root =
        ParentPath(pattern.substr(0, pattern.find_first_of("*?[{")));
    for (const std::string& path : paths) {
      if (absl::Status s = AddNamed(path, root); !s.ok()) return s;
    }
    return absl::OkStatus();
  }

  // Links to directories wait until the directories themselves are done, so
  // that a file's own path wins over a path through a link. No directory is
  // entered twice: links may form loops.
  absl::Status AddDirectory(const std::string& root) {
    const size_t before = found_.size();
    std::set<Identity> entered;
    std::deque<Folder> direct = {{root, "", false}};
    std::deque<Folder> linked;
    while (!direct.empty() || !linked.empty()) {
      std::deque<Folder>& queue = direct.empty() ? linked : direct;
      const Folder folder = std::move(queue.front());
      queue.pop_front();
      absl::Status s = Enter(folder, &entered, &direct, &linked);
      if (!s.ok()) return s;
    }
    if (found_.size() > before) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        root, " holds no file with a byte in it",
        extensions_.empty() ? ""
                            : absl::StrCat(" whose name ends in ",
                                           absl::StrJoin(extensions_, ", ")),
        "; check the path", extensions_.empty() ? "" : " and the extensions"));
  }

  absl::Status Enter(const Folder& folder, std::set<Identity>* entered,
                     std::deque<Folder>* direct, std::deque<Folder>* linked) {
    struct stat info;
    if (stat(folder.path.c_str(), &info) != 0) {
      return ErrnoStatus("open data", folder.path, errno);
    }
    if (!entered->insert({info.st_dev, info.st_ino}).second) {
      return absl::OkStatus();
    }
    const absl::StatusOr<std::vector<std::string>> names =
        ListDirectory(folder.path);
    if (!names.ok()) return names.status();
    for (const std::string& name : *names) {
      if (name.front() == '.') continue;
      const std::string path = JoinPath(folder.path, name);
      const std::string relative = folder.relative + name;
      struct stat link;
      // Gone in the meantime, or a link that leads nowhere.
      if (lstat(path.c_str(), &link) != 0) continue;
      if (stat(path.c_str(), &info) != 0) continue;
      const bool is_link = S_ISLNK(link.st_mode);
      if (S_ISDIR(info.st_mode)) {
        (is_link ? linked : direct)
            ->push_back({path, relative + "/", folder.through_link || is_link});
      } else if (S_ISREG(info.st_mode) && info.st_size > 0 && Wanted(name)) {
        absl::Status s =
            AddFile(path, relative, info, folder.through_link || is_link);
        if (!s.ok()) return s;
      }
    }
    return absl::OkStatus();
  }

  absl::Status AddFile(const std::string& path, const std::string& relative,
                       const struct stat& info, bool through_link) {
    if (access(path.c_str(), R_OK) != 0) {
      return ErrnoStatus("read data", path, errno);
    }
    found_.push_back({{path, relative, info.st_size},
                      {info.st_dev, info.st_ino},
                      through_link});
    return absl::OkStatus();
  }

  bool Wanted(const std::string& name) const {
    if (extensions_.empty()) return true;
    return std::any_of(extensions_.begin(), extensions_.end(),
                       [&](const std::string& extension) {
                         return absl::EndsWith(name, extension);
                       });
  }

  absl::Span<const std::string> extensions_;
  std::vector<Found> found_;
};

}  // namespace

absl::StatusOr<std::vector<DataFile>> ExpandFiles(
    absl::Span<const std::string> inputs,
    absl::Span<const std::string> extensions) {
  if (inputs.empty()) {
    return absl::InvalidArgumentError(
        "no data files are named; set data.train to files, directories or "
        "globs");
  }
  Search search(extensions);
  for (const std::string& input : inputs) {
    if (absl::Status s = search.Add(input); !s.ok()) return s;
  }
  // Of the paths to one file, the one that does not go through a link and then
  // the first stays: a choice that does not depend on the order of inputs.
  std::map<Identity, const Found*> unique;
  const std::vector<Found> found = search.Take();
  const auto key = [](const Found& f) {
    return std::tie(f.through_link, f.file.path, f.file.relative);
  };
  for (const Found& f : found) {
    const Found*& best = unique[f.identity];
    if (best == nullptr || key(f) < key(*best)) best = &f;
  }
  std::vector<DataFile> files;
  files.reserve(unique.size());
  for (const auto& [identity, f] : unique) files.push_back(f->file);
  std::sort(
      files.begin(), files.end(),
      [](const DataFile& a, const DataFile& b) { return a.path < b.path; });
  return files;
}

bool IsHeldOut(const std::string& relative, double fraction, uint64_t seed) {
  return Uniform(seed, StreamOf("data.holdout"), StreamOf(relative)) < fraction;
}

absl::StatusOr<FileSplit> SplitFiles(const std::vector<DataFile>& files,
                                     double fraction, uint64_t seed) {
  CARRY_CHECK(fraction >= 0 && fraction <= 1);
  FileSplit split;
  for (const DataFile& file : files) {
    const bool held_out = IsHeldOut(file.relative, fraction, seed);
    (held_out ? split.held_out : split.train).push_back(file);
  }
  if ((split.train.empty() && fraction < 1) ||
      (split.held_out.empty() && fraction > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("holding out a share of ", fraction, " of ", files.size(),
                     " data files leaves none to ",
                     split.train.empty() ? "train on" : "evaluate on",
                     "; name files for evaluation in data.eval, or change "
                     "data.holdout_fraction or the seed"));
  }
  return split;
}

absl::StatusOr<std::vector<DataFile>> WithoutHeldOut(
    const std::vector<DataFile>& files, const std::vector<DataFile>& held_out) {
  using Identity = std::pair<dev_t, ino_t>;
  const auto identify = [](const DataFile& file, Identity* identity) {
    struct stat info;
    if (stat(file.path.c_str(), &info) != 0) return false;
    *identity = {info.st_dev, info.st_ino};
    return true;
  };
  std::set<Identity> out;
  Identity identity;
  for (const DataFile& file : held_out) {
    if (identify(file, &identity)) out.insert(identity);
  }
  std::vector<DataFile> left;
  for (const DataFile& file : files) {
    // What cannot be found any more is reported when it is opened.
    if (identify(file, &identity) && out.count(identity) > 0) continue;
    left.push_back(file);
  }
  if (left.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("each of the ", files.size(),
                     " files of data.train is in data.eval too, which is never "
                     "trained on; name other files"));
  }
  return left;
}

}  // namespace carry
