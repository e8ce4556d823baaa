#pragma once
// Which of several processes failed, where one takes the others with it.

#include <mtpx/core/error.hpp>

#include <sys/wait.h>

#include <csignal>
#include <string>

namespace program {

/// Of a run's ranks the one that failed, and how. It is the first that is seen to have ended badly; but one
/// that only noticed that another is gone gives way to a later one that did not, unless that was asked to
/// end.
class FirstFailure {
 public:
  /// notices: the exit code of a rank that noticed
  explicit FirstFailure(int notices) : notices_(notices) {}

  /// A rank has ended, as waitpid() says. True where it is the first that failed: the others are to be asked
  /// to end, by SIGTERM.
  bool add(int rank, int status) {
    const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    const int code = signal != 0 ? 128 + signal : WEXITSTATUS(status);
    const bool first = rank_ < 0;
    if (code == 0 || (!first && (code_ != notices_ || code == notices_ || signal == SIGTERM))) return false;
    rank_ = rank;
    code_ = code;
    how_ = signal != 0 ? mtpx::cat("was ended by signal ", signal) : mtpx::cat("ended with exit code ", code);
    return first;
  }

  /// Whether one has.
  explicit operator bool() const { return rank_ >= 0; }
  /// The run's exit code: 0, that of the rank, or 128 and the signal that ended it.
  int code() const { return code_; }
  /// "rank 1 of 4 was ended by signal 9"
  std::string text(int ranks) const { return mtpx::cat("rank ", rank_, " of ", ranks, ' ', how_); }

 private:
  int notices_, rank_ = -1, code_ = 0;
  std::string how_;
};

}  // namespace program
