#pragma once
// What a training says while it runs.

#include "program.hpp"

#include <mtpx/train/trainer.hpp>

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

namespace program {

/// One line that is rewritten on a terminal; plain lines otherwise, about twenty a run.
class Progress {
 public:
  /// leads: whether this process is the one that says it
  Progress(mtpx::Index steps, bool leads)
      : steps_(steps),
        every_(std::max<mtpx::Index>(1, steps / 20)),
        leads_(leads),
        terminal_(::isatty(STDOUT_FILENO) == 1) {}

  /// Begins behind `done` steps that took no time here.   least: seconds that a step takes at the peak of the
  /// processor, or 0 where that is not known
  void begin(mtpx::Index done, mtpx::Index tokens_per_step, double least) {
    first_ = done;
    tokens_ = static_cast<double>(tokens_per_step);
    least_ = least;
    start_ = Clock::now();
  }

  /// Whether a step has a line of its own where lines are not rewritten.
  bool shows(mtpx::Index step) const { return step == 1 || step % every_ == 0 || step == steps_; }

  void show(const mtpx::StepReport& report) {
    if (!leads_) return;
    if (terminal_) {
      std::cout << "\r\033[K" << line(report, width() - 1) << std::flush;
      open_ = true;
    } else if (shows(report.step)) {
      std::cout << line(report, std::string::npos) << '\n' << std::flush;
    }
  }

  void say(const std::string& line) {
    if (!leads_) return;
    if (open_) std::cout << '\n';
    open_ = false;
    std::cout << line << '\n' << std::flush;
  }

 private:
  /// Columns of the terminal.
  static std::size_t width() {
    winsize size{};
    return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
  }

  /// What a step showed and how fast steps are; in so many columns: without the learning rate, the norm, and
  /// the losses of the last depths, as far as they have no place.
  std::string line(const mtpx::StepReport& report, std::size_t columns) const {
    const double elapsed = seconds_since(start_);
    const auto done = static_cast<double>(report.step - first_);
    const auto remaining = static_cast<long>(elapsed / done * static_cast<double>(steps_ - report.step));
    std::ostringstream lr;
    lr << "  lr " << std::setprecision(3) << report.lr;
    std::vector<std::string> losses;
    for (const double loss : report.loss) losses.push_back(" " + fixed(loss, 3));
    std::string rate = lr.str(), norm = mtpx::cat("  norm ", fixed(report.gradient_norm, 2));
    const auto whole = [&] {
      std::string text =
          mtpx::cat("step ", report.step, '/', steps_, " (", 100 * report.step / steps_, "%)  loss");
      for (const std::string& loss : losses) text += loss;
      text += mtpx::cat(rate, norm, "  ", fixed(done * tokens_ / elapsed, 0), " tok/s");
      if (least_ > 0) text += mtpx::cat("  MFU ", fixed(100 * done * least_ / elapsed, 1), '%');
      return text + mtpx::cat("  ETA ", remaining / 60, 'm', remaining % 60, 's');
    };
    if (whole().size() > columns) rate.clear();
    if (whole().size() > columns) norm.clear();
    while (whole().size() > columns && losses.size() > 1) losses.pop_back();
    return whole().substr(0, columns);
  }

  mtpx::Index steps_, every_;
  bool leads_, terminal_;
  bool open_ = false;
  mtpx::Index first_ = 0;
  double tokens_ = 0, least_ = 0;
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
