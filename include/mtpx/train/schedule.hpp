#pragma once

#include <mtpx/core/error.hpp>

#include <algorithm>
#include <cmath>

namespace mtpx {

/// Learning rate over steps (DeepSeek-V3 sec. 4.2): linear from 0, constant, then a cosine down to a
/// fraction.
struct LearningRate {
  double peak = 2.2e-4;      ///< the largest rate, between rise and cosine
  Index warmup = 2000;       ///< steps of the linear rise
  double decay_from = 0.68;  ///< fraction of all steps at which the cosine begins
  double final_ratio = 0.1;  ///< of the peak, at the end

  /// step: from 0   steps: all of them; 0: constant after the rise
  double at(Index step, Index steps) const {
    if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
    const double begin = std::max(static_cast<double>(warmup), decay_from * static_cast<double>(steps));
    if (steps <= 0 || static_cast<double>(step) <= begin) return peak;
    const double done =
        std::min(1.0, (static_cast<double>(step) - begin) / (static_cast<double>(steps) - begin));
    const double cosine = 1 + std::cos(3.14159265358979323846 * done);
    return peak * std::fma(0.5 * (1 - final_ratio), cosine, final_ratio);  // rounded alike in every build
  }
};

/// Lambda of Eq. 25 over steps: first that of MtpLossOptions, then `late` (DeepSeek-V3 sec. 4.2: 0.3 for the
/// first 10 T of 14.8 T tokens, then 0.1).
struct LambdaSchedule {
  double late = 0.1;               ///< lambda from switch_at on
  double switch_at = 10.0 / 14.8;  ///< fraction of all steps

  /// early: MtpLossOptions::lambda   step: from 0   steps: all of them
  double at(double early, Index step, Index steps) const {
    return static_cast<double>(step) < switch_at * static_cast<double>(steps) ? early : late;
  }
};

}  // namespace mtpx
