#pragma once
// What a program says while it reads a large model, or writes one.

#include "program.hpp"

#include <mtpx/core/shape.hpp>

#include <unistd.h>

#include <filesystem>
#include <iostream>
#include <string>

namespace program {

/// One line on standard error, where that is a terminal: rewritten while weights are read or written, gone
/// when they are. Models that are there at once have none.
class LoadingLine {
 public:
  explicit LoadingLine(const std::string& folder, const char* doing = "loading")
      : doing_(doing),
        name_(std::filesystem::path(folder).lexically_normal().filename().string()),
        terminal_(::isatty(STDERR_FILENO) == 1) {}
  LoadingLine(const LoadingLine&) = delete;
  LoadingLine& operator=(const LoadingLine&) = delete;
  ~LoadingLine() {
    if (open_) std::cerr << "\r\033[K" << std::flush;
  }

  /// As mtpx::LoadProgress.
  void show(mtpx::Index done, mtpx::Index all) {
    if (!terminal_ || seconds_since(last_) < patience) return;
    last_ = Clock::now();
    open_ = true;
    std::cerr << "\r\033[K" << mtpx::cat(doing_, ' ', name_, ": ", 100 * done / all, " %") << std::flush;
  }

 private:
  static constexpr double patience = 0.25;  // seconds before the line, and between two of its kind

  const char* doing_;
  std::string name_;
  bool terminal_;
  bool open_ = false;
  Clock::time_point last_ = Clock::now();
};

}  // namespace program
