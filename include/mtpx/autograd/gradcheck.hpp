#pragma once
// Gradients against finite differences, in double.

#include <mtpx/autograd/tape.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

namespace mtpx {

/// What gradcheck() found.
struct GradcheckReport {
  Index checked = 0;  ///< entries compared
  double worst = 0;   ///< largest error, relative to max(1, |expected|)
  std::string where;  ///< "name[index]: tape a, differences b" of the worst entry

  /// Whether something was compared, and no entry is off by more.
  bool within(double bound) const { return checked > 0 && worst <= bound; }
};

/// A tensor to perturb, by name.
template <typename D>
struct GradcheckTarget {
  std::string name;       ///< in GradcheckReport::where
  Weight<double, D> var;  ///< its value is moved in place, and put back
};

/// Compares every entry of every target's gradient with a five-point difference of the loss,
///
///   df/dx ~ (f(x - 2h) - 8 f(x - h) + 8 f(x + h) - f(x + 2h)) / (12 h),   error O(h^4)
///
/// loss: a function of a tape that computes one number on it, from the targets' current values. It must be
/// smooth within 2h: keep choices (experts, maxima) away from ties.
/// stride: check every stride-th entry of each target; 1 checks all.
///
/// Throws Error for a target that is frozen, constant or undefined, and for an h or a stride that is not
/// positive.
template <typename D>
GradcheckReport gradcheck(const std::vector<GradcheckTarget<D>>& targets,
                          const std::function<Var<double, D>(Tape&)>& loss, double h = 1e-3,
                          Index stride = 1) {
  if (!(h > 0) || stride < 1)
    throw Error(cat("[gradcheck] h = ", h, " and stride = ", stride, " must be positive"));
  for (const auto& target : targets) {
    if (!target.var.defined()) throw Error(cat("[gradcheck] ", target.name, " is undefined"));
    if (!target.var.wants_grad())
      throw Error(
          cat("[gradcheck] ", target.name, " has no gradient to compare: it is frozen or a constant"));
    require(target.var.value().contiguous(), "gradcheck", "targets are dense",
            {{target.name.c_str(), target.var}});
  }
  for (const auto& target : targets) target.var.slot()->filled = false;
  {
    Tape tape;
    tape.backward(loss(tape));
  }
  const auto value = [&loss] {
    Tape tape(Mode::inference);
    return loss(tape).item();
  };
  GradcheckReport report;
  for (const auto& target : targets) {
    std::vector<double> x = target.var.value().to_host();
    const std::vector<double> grad =
        target.var.slot()->filled ? target.var.grad().to_host() : std::vector<double>(x.size(), 0.0);
    for (std::size_t i = 0; i < x.size(); i += static_cast<std::size_t>(stride)) {
      const double at = x[i];
      const auto moved = [&](double steps) {
        x[i] = at + steps * h;
        target.var.value().assign(x);
        return value();
      };
      const double expected = (moved(-2) - 8 * moved(-1) + 8 * moved(1) - moved(2)) / (12 * h);
      x[i] = at;
      const double error = std::abs(grad[i] - expected) / std::max(1.0, std::abs(expected));
      ++report.checked;
      if (!(error <= report.worst) && !std::isnan(report.worst)) {  // nothing is worse than NaN
        report.worst = error;
        report.where = cat(target.name, '[', i, "]: tape ", grad[i], ", differences ", expected);
      }
    }
    target.var.value().assign(x);
  }
  return report;
}

}  // namespace mtpx
