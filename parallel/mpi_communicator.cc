#include "parallel/mpi_communicator.h"

#include <mpi.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"

namespace carry {
namespace {

// MPI counts are ints.
constexpr int64_t kMaxMessage = int64_t{1} << 30;

std::string MpiError(int code) {
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  return std::string(text, length);
}

// What the communicators split from one world share.
struct Shared {
  double timeout_seconds;
  absl::Status broken;
};

class MpiTransfer : public Transfer {
 public:
  MpiTransfer(std::shared_ptr<Shared> shared, int rank, int peer,
              bool is_receive, int64_t bytes, const CommLabel& label)
      : shared_(std::move(shared)),
        rank_(rank),
        peer_(peer),
        is_receive_(is_receive),
        bytes_(bytes),
        label_(label) {}

  std::vector<MPI_Request>& requests() { return requests_; }
  void Fail(int code) {
    if (status_.ok()) {
      status_ = absl::InternalError(absl::StrCat(Who(), ": ", MpiError(code)));
    }
  }

  bool Done() override {
    if (finished_ || !status_.ok() || !shared_->broken.ok()) return true;
    int done = 0;
    states_.resize(requests_.size());
    const int code = MPI_Testall(static_cast<int>(requests_.size()),
                                 requests_.data(), &done, states_.data());
    if (code != MPI_SUCCESS) Fail(code);
    finished_ = done != 0;
    return finished_ || !status_.ok();
  }

  absl::Status Wait() override {
    using Clock = std::chrono::steady_clock;
    const Clock::time_point deadline =
        Clock::now() +
        std::chrono::duration_cast<Clock::duration>(
            std::chrono::duration<double>(shared_->timeout_seconds));
    if (status_.ok()) status_ = shared_->broken;
    for (int spins = 0; status_.ok() && !Done(); ++spins) {
      if (spins % 64 != 63) continue;
      // Others may need the core; looking at the clock costs little here.
      sched_yield();
      if (Clock::now() > deadline) {
        status_ = absl::DeadlineExceededError(absl::StrCat(
            Who(), ": nothing came for ", shared_->timeout_seconds, " s"));
      }
    }
    if (status_.ok() && is_receive_) status_ = CheckSize();
    if (!status_.ok() && shared_->broken.ok()) shared_->broken = status_;
    return status_;
  }

 private:
  std::string Who() const {
    return absl::StrCat("rank ", rank_,
                        is_receive_ ? " receiving from" : " sending to",
                        " rank ", peer_, " in ", label_.ToString());
  }

  absl::Status CheckSize() const {
    int64_t got = 0;
    for (const MPI_Status& state : states_) {
      int count = 0;
      MPI_Get_count(&state, MPI_BYTE, &count);
      got += count;
    }
    if (got == bytes_) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(
        Who(), ": got ", got, " bytes where ", bytes_, " were due"));
  }

  std::shared_ptr<Shared> shared_;
  int rank_, peer_;
  bool is_receive_;
  int64_t bytes_;
  CommLabel label_;
  std::vector<MPI_Request> requests_;
  std::vector<MPI_Status> states_;
  bool finished_ = false;
  absl::Status status_;
};

class MpiCommunicator : public Communicator {
 public:
  MpiCommunicator(MPI_Comm comm, std::shared_ptr<Shared> shared)
      : comm_(comm), shared_(std::move(shared)) {
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  CommCounters counters() const override { return counters_; }

  std::unique_ptr<Transfer> Send(const void* data, int64_t bytes, int to,
                                 int tag, const CommLabel& label) override {
    auto transfer = Make(to, false, bytes, label);
    const char* at = static_cast<const char*>(data);
    ForPieces(
        bytes,
        [&](int64_t offset, int count) {
          transfer->requests().push_back(MPI_REQUEST_NULL);
          return MPI_Isend(at + offset, count, MPI_BYTE, to, tag, comm_,
                           &transfer->requests().back());
        },
        *transfer);
    ++counters_.messages;
    counters_.bytes += bytes;
    return transfer;
  }

  std::unique_ptr<Transfer> Receive(void* data, int64_t bytes, int from,
                                    int tag, const CommLabel& label) override {
    auto transfer = Make(from, true, bytes, label);
    char* at = static_cast<char*>(data);
    ForPieces(
        bytes,
        [&](int64_t offset, int count) {
          transfer->requests().push_back(MPI_REQUEST_NULL);
          return MPI_Irecv(at + offset, count, MPI_BYTE, from, tag, comm_,
                           &transfer->requests().back());
        },
        *transfer);
    return transfer;
  }

  absl::StatusOr<std::unique_ptr<Communicator>> Split(int color,
                                                      int key) override {
    // The barrier has a timeout; MPI's own split has none.
    absl::Status status = Barrier({"split", -1, -1, ""});
    if (!status.ok()) return status;
    MPI_Comm child;
    const int code = MPI_Comm_split(comm_, color, key, &child);
    if (code != MPI_SUCCESS) {
      return absl::InternalError(
          absl::StrCat("rank ", rank_, " in split: ", MpiError(code)));
    }
    return std::make_unique<MpiCommunicator>(child, shared_);
  }

 private:
  std::unique_ptr<MpiTransfer> Make(int peer, bool is_receive, int64_t bytes,
                                    const CommLabel& label) {
    CARRY_CHECK(peer >= 0 && peer < size_ && peer != rank_);
    return std::make_unique<MpiTransfer>(shared_, rank_, peer, is_receive,
                                         bytes, label);
  }

  template <typename Start>
  static void ForPieces(int64_t bytes, const Start& start,
                        MpiTransfer& transfer) {
    transfer.requests().reserve((bytes + kMaxMessage - 1) / kMaxMessage + 1);
    int64_t offset = 0;
    do {
      const int64_t count = std::min(kMaxMessage, bytes - offset);
      const int code = start(offset, static_cast<int>(count));
      if (code != MPI_SUCCESS) return transfer.Fail(code);
      offset += count;
    } while (offset < bytes);
  }

  MPI_Comm comm_;
  std::shared_ptr<Shared> shared_;
  int rank_ = 0, size_ = 1;
  CommCounters counters_;
};

bool Running() {
  int initialized = 0, finalized = 0;
  MPI_Initialized(&initialized);
  MPI_Finalized(&finalized);
  return initialized && !finalized;
}

}  // namespace

bool LaunchedByMpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

absl::StatusOr<MpiWorld> InitMpi(double timeout_seconds) {
  if (!Running()) {
    int provided = 0;
    const int code =
        MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    if (code != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED) {
      return absl::UnavailableError(
          "MPI could not be started; check the launcher (mpirun --version) "
          "and that it belongs to the library that carry was built with");
    }
  }
  MpiWorld mpi;
  auto shared = std::make_shared<Shared>();
  shared->timeout_seconds = timeout_seconds;
  mpi.world = std::make_unique<MpiCommunicator>(MPI_COMM_WORLD, shared);
  MPI_Comm local;
  MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                      &local);
  MPI_Comm_rank(local, &mpi.local_rank);
  MPI_Comm_size(local, &mpi.local_size);
  MPI_Comm_free(&local);
  return mpi;
}

void FinalizeMpi() {
  if (Running()) MPI_Finalize();
}

void AbortMpi(int exit_status) {
  if (Running()) MPI_Abort(MPI_COMM_WORLD, exit_status);
}

}  // namespace carry
