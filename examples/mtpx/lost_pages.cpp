// A mapped file that shrinks while it is read: POSIX has it that the process gets SIGBUS.

#include "program.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdint>
#include <string_view>

namespace program {
namespace {

// What a handler may not allocate: every mapping of the process, a line each, in the words of Linux.
char maps[1 << 20];

/// The hexadecimal number that `text` begins with, which goes.
std::uintptr_t take_number(std::string_view& text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::uintptr_t number = 0;
  for (std::size_t digit; !text.empty() && (digit = digits.find(text[0])) != digits.npos;
       text.remove_prefix(1))
    number = number * 16 + digit;
  return number;
}

/// The file that is mapped at an address; empty if it is none.
std::string_view file_at(std::uintptr_t address) {
  const int file = ::open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
  std::size_t size = 0;
  for (ssize_t got = 0; (got = ::read(file, maps + size, sizeof maps - size)) > 0;)
    size += static_cast<std::size_t>(got);
  for (std::string_view rest(maps, size); !rest.empty();) {
    std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const std::uintptr_t begin = take_number(line);
    line.remove_prefix(std::min<std::size_t>(1, line.size()));
    const std::uintptr_t end = take_number(line);
    const std::size_t path = line.find('/');
    if (begin <= address && address < end) return path == line.npos ? std::string_view() : line.substr(path);
  }
  return {};
}

void say(std::string_view text) { (void)!::write(STDERR_FILENO, text.data(), text.size()); }

/// Uses nothing that may not be used in a handler. Several threads may come here: the first ends the process.
void on_bus_error(int signal, siginfo_t* cause, void*) {
  static std::atomic_flag taken;
  while (taken.test_and_set()) ::pause();
  const std::string_view file = cause->si_code == BUS_ADRERR
                                    ? file_at(reinterpret_cast<std::uintptr_t>(cause->si_addr))
                                    : std::string_view();
  if (file.empty()) {  // something else: as if nobody had caught it
    std::signal(signal, SIG_DFL);
    ::raise(signal);
    return;
  }
  say("mtpx: ");
  say(file);
  say(": cannot be read any more: it has shrunk while it was in use, or its disk fails\n");
  ::_exit(bad_input);
}

}  // namespace

void tell_of_lost_pages() {
  struct sigaction action {};
  action.sa_sigaction = on_bus_error;
  action.sa_flags = SA_SIGINFO;
  ::sigaction(SIGBUS, &action, nullptr);
}

}  // namespace program
