#pragma once
// What main and the subcommands share: how a run ends, and the options that all have.

#include <mtpx/core/error.hpp>

#include <CLI/CLI.hpp>

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

namespace program {

using Clock = std::chrono::steady_clock;

inline double seconds_since(Clock::time_point from) {
  return std::chrono::duration<double>(Clock::now() - from).count();
}

/// To so many digits behind the point, as JSON lines show figures.
inline double rounded(double value, int digits) {
  const double unit = std::pow(10.0, digits);
  return std::round(value * unit) / unit;
}

/// How a run ended, for scripts: the same meaning in every subcommand.
enum ExitCode {
  usage = 2,
  bad_input = 3,
  output_failed = 4,
  not_finite = 5,
  out_of_memory = 6,
  device_failed = 7,
  peer_gone = 8
};

/// A result that could not be written.
struct OutputError : mtpx::Error {
  using mtpx::Error::Error;
};

/// Runs `write`; a file that it cannot write is an output error, not bad input.
template <typename Write>
void write_output(const Write& write) {
  try {
    write();
  } catch (const mtpx::FileError& error) {
    throw OutputError(error.what());
  }
}

/// Makes the folder of --out, if there is none, or says why not.
inline void make_out(const char* command, const std::string& out) {
  const auto fail = [&](const std::string& cause) {
    throw OutputError(mtpx::cat('[', command, "] --out ", out, ": ", cause));
  };
  std::error_code failed;
  std::filesystem::create_directories(out, failed);
  if (failed) fail("cannot be made: " + failed.message());
  if (::access(out.c_str(), W_OK) != 0) fail("is not writable");
}

/// Whether standard output takes what is written. False when whoever read it has gone, which ends a run
/// quietly; any other cause is an error.
inline bool written() {
  if (std::cout.flush()) return true;
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  if (errno == EPIPE || (::poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0)) return false;
  throw OutputError(mtpx::cat("standard output: cannot be written: ", std::strerror(errno)));
}

inline std::string fixed(double value, int digits) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(digits) << mtpx::detail::unsigned_nan(value);
  return text.str();
}

/// From now on a mapped file that shrinks while it is read ends the process with one line that names it and
/// bad_input; nothing is saved.
void tell_of_lost_pages();

void add_train(CLI::App& app);
void add_distill(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_score(CLI::App& app);
void add_bench(CLI::App& app);
void add_launch(CLI::App& app);
void add_compare(CLI::App& app);
void add_report(CLI::App& app);
void add_plan(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_convert(CLI::App& app);
void add_quantize(CLI::App& app);

/// --device, --dtype and --threads, for every subcommand: where to compute, and in what.
struct DeviceOptions {
  std::string device = "auto";
  std::string dtype = "float32";
  int threads = 0;
  int ordinal = 0;  ///< of the GPU, where several processes have one each

  void add(CLI::App& command, const std::vector<std::string>& dtypes = {"float32", "bf16"},
           bool with_reference = false) {
    std::vector<std::string> devices{"auto", "cpu", "cuda"};
    std::string help = "cpu, cuda, or auto: the GPU if there is one";
    if (with_reference) {
      devices.push_back("reference");
      help += "; reference: the equations in plain Eigen, slow, to compare with, in float64";
    }
    command.add_option("--device", device, help)->check(CLI::IsMember(devices))->capture_default_str();
    command
        .add_option("--dtype", dtype,
                    "Type of weights and activations; sums and optimiser state of bf16 are float32")
        ->check(CLI::IsMember(dtypes))
        ->capture_default_str();
    command.add_option("--threads", threads, "Threads; 0 takes every processor. Results do not depend on it")
        ->check(CLI::Range(0, 4096))
        ->capture_default_str();
  }
};

}  // namespace program
