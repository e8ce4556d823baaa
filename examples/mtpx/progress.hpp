#pragma once
// What a training says while it runs.

#include "program.hpp"

#include <mtpx/train/trainer.hpp>

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <iostream>
#include <optional>
#include <string>

namespace program {

/// One line that is rewritten on a terminal; plain lines otherwise, about twenty a run.
class Progress {
 public:
  explicit Progress(mtpx::Index steps)
      : steps_(steps),
        every_(std::max<mtpx::Index>(1, steps / 20)),
        terminal_(::isatty(STDOUT_FILENO) == 1) {}

  /// Begins behind `done` steps that took no time here.
  void begin(mtpx::Index done) {
    first_ = done;
    start_ = Clock::now();
  }

  /// Whether a step has a line of its own where lines are not rewritten.
  bool shows(mtpx::Index step) const { return step == 1 || step % every_ == 0 || step == steps_; }

  void show(const mtpx::StepReport& report, mtpx::Index tokens_per_step) {
    const double elapsed = seconds_since(start_);
    const auto done = static_cast<double>(report.step - first_);
    const double rate = done * static_cast<double>(tokens_per_step) / elapsed;
    const double remaining = elapsed / done * static_cast<double>(steps_ - report.step);
    std::string line =
        mtpx::cat("step ", report.step, '/', steps_, " (", 100 * report.step / steps_, "%)  loss");
    for (const double loss : report.loss) line += mtpx::cat(' ', fixed(loss, 3));
    std::ostringstream lr;
    lr << std::setprecision(3) << report.lr;
    line += mtpx::cat("  lr ", lr.str(), "  norm ", fixed(report.gradient_norm, 2), "  ", fixed(rate, 0),
                      " tok/s  ETA ", static_cast<long>(remaining) / 60, 'm',
                      static_cast<long>(remaining) % 60, 's');
    if (terminal_) {
      std::cout << "\r\033[K" << line << std::flush;
      open_ = true;
    } else if (shows(report.step)) {
      std::cout << line << '\n' << std::flush;
    }
  }

  void say(const std::string& line) {
    if (open_) std::cout << '\n';
    open_ = false;
    std::cout << line << '\n' << std::flush;
  }

 private:
  mtpx::Index steps_, every_;
  bool terminal_;
  bool open_ = false;
  mtpx::Index first_ = 0;
  Clock::time_point start_ = Clock::now();
};

/// Finds a loss that stands out of those before it.
class Spikes {
 public:
  /// How many standard deviations the loss lies above the mean of the (at most) 100 before it, where that is
  /// more than 6; nothing before 20 of them.
  std::optional<double> add(double loss) {
    double mean = 0, square = 0;
    for (const double x : last_) mean += x / static_cast<double>(last_.size());
    for (const double x : last_) square += (x - mean) * (x - mean) / static_cast<double>(last_.size());
    const double z = (loss - mean) / std::max(std::sqrt(square), 1e-9);
    const bool spike = last_.size() >= 20 && z > 6;
    last_.push_back(loss);
    if (last_.size() > 100) last_.pop_front();
    return spike ? std::optional(z) : std::nullopt;
  }

 private:
  std::deque<double> last_;
};

}  // namespace program
