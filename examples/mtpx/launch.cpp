// mtpx launch: several processes of this program as the ranks of one run.

#include "first_failure.hpp"
#include "program.hpp"

#include <mtpx/comm/tcp.hpp>

#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

namespace program {
namespace {

struct LaunchFlags {
  int ranks = 1;
  std::vector<std::string> command;
};

/// The ranks that run. Of one process, as signals are.
struct Launched {
  inline static volatile pid_t ranks[4096] = {};
  inline static volatile std::sig_atomic_t count = 0;

  /// To every rank that still runs.
  static void tell(int signal) {
    for (int rank = 0; rank < count; ++rank) {
      if (ranks[rank] > 0) (void)::kill(ranks[rank], signal);
    }
  }
};

/// A port that is free now; the ranks meet there in a moment.
int free_port() {
  const mtpx::detail::Socket any(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof place;
  if (::bind(any.get(), reinterpret_cast<sockaddr*>(&place), size) != 0 ||
      ::getsockname(any.get(), reinterpret_cast<sockaddr*>(&place), &size) != 0)
    throw mtpx::CommError(mtpx::cat("[launch] no port is free: ", std::strerror(errno)));
  return ntohs(place.sin_port);
}

/// One rank: this program with torchrun's variables. It ends with this process, and signals of the terminal
/// come through it alone.
pid_t start(const LaunchFlags& o, int rank, int port) {
  const pid_t parent = ::getpid(), child = ::fork();
  if (child < 0)
    throw mtpx::CommError(mtpx::cat("[launch] rank ", rank, " cannot be started: ", std::strerror(errno)));
  if (child > 0) return child;
  (void)::setpgid(0, 0);
  (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) std::_Exit(device_failed);
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) (void)std::signal(signal, SIG_DFL);
  const auto set = [](const char* name, const std::string& value) { (void)::setenv(name, value.c_str(), 1); };
  set("RANK", std::to_string(rank));
  set("LOCAL_RANK", std::to_string(rank));
  set("WORLD_SIZE", std::to_string(o.ranks));
  set("LOCAL_WORLD_SIZE", std::to_string(o.ranks));
  set("MASTER_ADDR", "127.0.0.1");
  set("MASTER_PORT", std::to_string(port));
  std::string name = "mtpx";
  std::vector<std::string> texts = o.command;
  std::vector<char*> arguments{name.data()};
  for (std::string& text : texts) arguments.push_back(text.data());
  arguments.push_back(nullptr);
  (void)::execv("/proc/self/exe", arguments.data());
  std::_Exit(device_failed);
}

/// Waits for all. When one fails the others are asked to end, and made to some seconds later. Returns the
/// run's exit code.
int wait_for_all(int ranks) {
  constexpr int patience = 10;  // seconds
  FirstFailure failure(peer_gone);
  for (int left = ranks; left > 0; --left) {
    int status = 0;
    pid_t ended = -1;
    const auto asked = Clock::now();
    while (failure && (ended = ::waitpid(-1, &status, WNOHANG)) == 0) {
      if (seconds_since(asked) > patience) Launched::tell(SIGKILL);
      (void)::usleep(20000);
    }
    while (ended <= 0 && (ended = ::waitpid(-1, &status, 0)) < 0 && errno == EINTR) {
    }
    if (ended < 0) break;
    int rank = 0;
    while (rank < ranks && Launched::ranks[rank] != ended) ++rank;
    Launched::ranks[rank] = 0;
    if (failure.add(rank, status)) Launched::tell(SIGTERM);
  }
  if (failure) std::cerr << "mtpx: " << failure.text(ranks) << "; so did the run\n";
  return failure.code();
}

void launch(const LaunchFlags& o) {
  const int port = free_port();
  for (const int signal : {SIGINT, SIGTERM, SIGUSR1}) (void)std::signal(signal, &Launched::tell);
  for (int rank = 0; rank < o.ranks; ++rank) {
    Launched::ranks[rank] = start(o, rank, port);
    Launched::count = rank + 1;
  }
  if (const int code = wait_for_all(o.ranks); code != 0) throw CLI::RuntimeError(code);
}

}  // namespace

void add_launch(CLI::App& app) {
  auto options = std::make_shared<LaunchFlags>();
  CLI::App* command = app.add_subcommand(
      "launch",
      "Start several processes of this program, one for each GPU, as one run: mtpx launch -n 4 -- train ..");
  command->add_option("-n,--ranks", options->ranks, "Processes")->required()->check(CLI::Range(1, 4096));
  command->add_option("command", options->command, "Subcommand and its flags, behind --")->required();
  command->positionals_at_end();
  command->callback([options] { launch(*options); });
}

}  // namespace program
