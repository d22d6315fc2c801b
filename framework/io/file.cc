#include "framework/io/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace carry {
namespace {

// Writes below this go through the buffer: many small tensors or documents
// then cost one system call.
constexpr int64_t kBufferSize = 1 << 20;
// Linux transfers at most 0x7ffff000 bytes a call.
constexpr int64_t kMaxTransfer = 1 << 30;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string Advice(const std::string& path, int error) {
  switch (error) {
    case ENOENT:
      return "check the path";
    case EACCES:
    case EPERM:
      return absl::StrCat("check the permissions (ls -ld ", path, ")");
    case EROFS:
      return "choose a place on a writable file system";
    case ENOSPC: {
      const absl::StatusOr<int64_t> free = FreeSpace(ParentPath(path));
      return absl::StrCat(
          free.ok() ? absl::StrCat(*free, " bytes are free there; ") : "",
          "free some space or write to another disk");
    }
    case EDQUOT:
      return "your quota is used up; free some space or write elsewhere";
    case EFBIG:
      return "raise the limit on file sizes (ulimit -f) or write to a file "
             "system that takes larger files";
    case EMFILE:
    case ENFILE:
      return "too many files are open; raise the limit (ulimit -n)";
    case ENOMEM:
      return "not enough address space or memory; close other programs";
    case ENOTDIR:
      return "a part of the path is a file, not a directory";
    case EISDIR:
      return "it is a directory; name a file";
    case EIO:
      return "the disk or network file system failed; see dmesg";
    case ESTALE:
      return "the network file system dropped it; try again";
    default:
      return "check the path and the file system";
  }
}

absl::StatusCode CodeOf(int error) {
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case EISDIR:
    case ENAMETOOLONG:
    case EINVAL:
    case ELOOP:
      return absl::StatusCode::kInvalidArgument;
    case EEXIST:
    case ENOTEMPTY:
      return absl::StatusCode::kAlreadyExists;
    default:
      return absl::StatusCode::kUnavailable;
  }
}

// Opens for reading and refuses what is not a regular file. O_NONBLOCK: a FIFO
// would otherwise block until somebody writes to it.
absl::Status OpenRegular(const std::string& path, int* fd, int64_t* size) {
  *fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (*fd < 0) return ErrnoStatus("open", path, errno);
  struct stat info;
  absl::Status status;
  if (fstat(*fd, &info) != 0) {
    status = ErrnoStatus("stat", path, errno);
  } else if (S_ISDIR(info.st_mode)) {
    status = ErrnoStatus("read", path, EISDIR);
  } else if (!S_ISREG(info.st_mode)) {
    status = absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file; name a regular file"));
  }
  if (!status.ok()) {
    close(*fd);
    *fd = -1;
    return status;
  }
  *size = info.st_size;
  return absl::OkStatus();
}

absl::Status WriteAll(int fd, const std::string& path, const char* data,
                      int64_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, std::min(size, kMaxTransfer));
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write", path, errno);
    }
    data += n;
    size -= n;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ErrnoStatus(absl::string_view action, const std::string& path,
                         int error) {
  return absl::Status(CodeOf(error),
                      absl::StrCat("cannot ", action, " ", path, ": ",
                                   std::generic_category().message(error), "; ",
                                   Advice(path, error)));
}

absl::StatusOr<std::string> ReadFile(const std::string& path,
                                     int64_t max_bytes) {
  int raw = -1;
  int64_t size = 0;
  if (absl::Status s = OpenRegular(path, &raw, &size); !s.ok()) return s;
  const Descriptor fd(raw);
  if (size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", size, " bytes where at most ", max_bytes,
                     " are expected; check that it is the right file"));
  }
  // Files below /proc say that they have no bytes: read until the end.
  std::string bytes;
  int64_t used = 0;
  while (true) {
    if (used > max_bytes) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has more than ", max_bytes,
                       " bytes; check that it is the right file"));
    }
    bytes.resize(std::max(size + 1, used + 4096));
    const int64_t room = static_cast<int64_t>(bytes.size()) - used;
    const ssize_t n =
        read(fd.get(), bytes.data() + used, std::min(room, kMaxTransfer));
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("read", path, errno);
    }
    if (n == 0) break;
    used += n;
  }
  bytes.resize(used);
  return bytes;
}

absl::Status WriteFileAtomically(const std::string& path,
                                 absl::string_view bytes) {
  absl::StatusOr<OutputFile> file = OutputFile::Create(path);
  if (!file.ok()) return file.status();
  if (absl::Status s = file->Append(bytes); !s.ok()) return s;
  return file->Commit();
}

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  int raw = -1;
  int64_t size = 0;
  if (absl::Status s = OpenRegular(path, &raw, &size); !s.ok()) return s;
  const Descriptor fd(raw);
  MappedFile file;
  file.path_ = path;
  if (size == 0) return file;
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus("map", path, errno);
  file.data_ = static_cast<const uint8_t*>(data);
  file.size_ = size;
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    Unmap();
    path_ = std::move(other.path_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() { Unmap(); }

void MappedFile::Unmap() {
  if (data_ != nullptr) munmap(const_cast<uint8_t*>(data_), size_);
  data_ = nullptr;
}

absl::StatusOr<OutputFile> OutputFile::Create(const std::string& path) {
  std::string temporary = absl::StrCat(path, ".tmp-", getpid());
  const int fd =
      open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) return ErrnoStatus("create", temporary, errno);
  return OutputFile(path, std::move(temporary), fd);
}

OutputFile::OutputFile(std::string path, std::string temporary, int fd)
    : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, std::string())),
      fd_(std::exchange(other.fd_, -1)),
      size_(other.size_),
      buffer_(std::move(other.buffer_)) {}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
  if (!temporary_.empty()) unlink(temporary_.c_str());
}

absl::Status OutputFile::Append(const void* data, int64_t size) {
  return Append({static_cast<const char*>(data), static_cast<size_t>(size)});
}

absl::Status OutputFile::Append(absl::string_view bytes) {
  const int64_t size = static_cast<int64_t>(bytes.size());
  if (static_cast<int64_t>(buffer_.size()) + size > kBufferSize) {
    if (absl::Status s = Flush(); !s.ok()) return s;
  }
  size_ += size;
  if (size > kBufferSize) return WriteAll(fd_, path_, bytes.data(), size);
  buffer_.append(bytes.data(), bytes.size());
  return absl::OkStatus();
}

absl::Status OutputFile::Rewrite(int64_t offset, absl::string_view bytes) {
  CARRY_CHECK(offset >= 0);
  CARRY_CHECK(offset + static_cast<int64_t>(bytes.size()) <= size_);
  if (absl::Status s = Flush(); !s.ok()) return s;
  while (!bytes.empty()) {
    const ssize_t n = pwrite(fd_, bytes.data(), bytes.size(), offset);
    if (n < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write", path_, errno);
    }
    bytes.remove_prefix(n);
    offset += n;
  }
  return absl::OkStatus();
}

absl::Status OutputFile::Flush() {
  absl::Status status = WriteAll(fd_, path_, buffer_.data(), buffer_.size());
  buffer_.clear();
  return status;
}

absl::Status OutputFile::Commit() {
  CARRY_CHECK(fd_ >= 0);
  if (absl::Status s = Flush(); !s.ok()) return s;
  if (fsync(fd_) != 0) return ErrnoStatus("fsync", path_, errno);
  // Network file systems report a full disk or quota here.
  if (close(std::exchange(fd_, -1)) != 0) {
    return ErrnoStatus("close", path_, errno);
  }
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    return ErrnoStatus("rename to", path_, errno);
  }
  temporary_.clear();
  return SyncPath(ParentPath(path_));
}

bool PathExists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0;
}

bool IsDirectory(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

bool IsRegularFile(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode);
}

absl::StatusOr<int64_t> FileSize(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return ErrnoStatus("stat", path, errno);
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is not a regular file; name a regular file"));
  }
  return info.st_size;
}

absl::StatusOr<std::vector<std::string>> ListDirectory(
    const std::string& path) {
  std::error_code error;
  std::filesystem::directory_iterator it(path, error);
  std::vector<std::string> names;
  for (; !error && it != std::filesystem::directory_iterator();
       it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  if (error) return ErrnoStatus("list", path, error.value());
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status MakeDirectories(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (error) return ErrnoStatus("create directory", path, error.value());
  return absl::OkStatus();
}

absl::Status RemoveRecursively(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  if (error) return ErrnoStatus("remove", path, error.value());
  return absl::OkStatus();
}

absl::Status Rename(const std::string& from, const std::string& to) {
  if (rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus(absl::StrCat("rename ", from, " to"), to, errno);
  }
  const std::string folder = ParentPath(to);
  if (absl::Status s = SyncPath(folder); !s.ok()) return s;
  const std::string source = ParentPath(from);
  return source == folder ? absl::OkStatus() : SyncPath(source);
}

absl::Status SyncPath(const std::string& path) {
  const Descriptor fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return ErrnoStatus("open", path, errno);
  // Some network and FUSE file systems have no fsync of folders: EINVAL.
  if (fsync(fd.get()) != 0 && errno != EINVAL) {
    return ErrnoStatus("fsync", path, errno);
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> FreeSpace(const std::string& path) {
  struct statvfs info;
  if (statvfs(path.c_str(), &info) != 0) {
    return ErrnoStatus("query the free space of", path, errno);
  }
  return static_cast<int64_t>(info.f_bavail) *
         static_cast<int64_t>(info.f_frsize);
}

std::string JoinPath(absl::string_view folder, absl::string_view name) {
  if (folder.empty()) return std::string(name);
  if (folder.back() == '/') return absl::StrCat(folder, name);
  return absl::StrCat(folder, "/", name);
}

std::string ParentPath(const std::string& path) {
  const size_t slash = path.find_last_of('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

}  // namespace carry
