#pragma once
// Rotation frequencies of the rotary position embedding, stretched by YaRN where a model asks for it.
//
// std::fma wherever a product is added to something: a compiler may contract a * b + c or not, and this it
// rounds once in every build.

#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

namespace mtpx {

/// YaRN stretching of the rotary positions (Peng et al. 2023), with DeepSeek's two mscales.
struct RopeScaling {
  double factor = 1;                           ///< context length over the original one, at least 1
  Index original_max_position_embeddings = 0;  ///< context length before stretching, in tokens
  double beta_fast = 32;      ///< rotations in the original context above which nothing changes
  double beta_slow = 1;       ///< rotations below which positions are divided by `factor`
  double mscale = 1;          ///< scales cos and sin by 0.1 mscale ln(factor) + 1 ...
  double mscale_all_dim = 0;  ///< ... over the same with this; its square scales the scores

  bool operator==(const RopeScaling&) const = default;
};

/// 0.1 mscale ln(factor) + 1; 1 where nothing is stretched (Peng et al. 2023, arXiv 2309.00071, eq. 22, with
/// DeepSeek's factor mscale).
inline double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : std::fma(0.1 * mscale, std::log(factor), 1.0);
}

/// Angle per position of each rotated pair: theta_i = theta^(-2i/d), i < d / 2; with YaRN
///
///   f_i = theta_i / factor * ramp_i + theta_i * (1 - ramp_i),   ramp_i = clamp((i - low) / (high - low), 0,
///   1) low = floor(c(beta_fast)), high = ceil(c(beta_slow)),   c(b) = d ln(original / (2 pi b)) / (2 ln
///   theta)
///
/// rope: d, even   theta: the base   returns [d / 2], radians a position
[[gnu::cold]] inline std::vector<double> rope_frequencies(Index rope, double theta,
                                                          const std::optional<RopeScaling>& scaling) {
  const auto d = static_cast<double>(rope);
  std::vector<double> frequencies;
  for (Index i = 0; i < rope / 2; ++i)
    frequencies.push_back(std::pow(theta, -2.0 * static_cast<double>(i) / d));
  if (!scaling) return frequencies;

  const double pi = 3.14159265358979323846;
  const auto correction = [&](double rotations) {
    return d *
           std::log(static_cast<double>(scaling->original_max_position_embeddings) / (rotations * 2 * pi)) /
           (2 * std::log(theta));
  };
  const double low = std::max(std::floor(correction(scaling->beta_fast)), 0.0);
  double high = std::min(std::ceil(correction(scaling->beta_slow)), d - 1);
  if (low == high) high += 0.001;  // as the published code does, against a division by zero
  for (Index i = 0; i < rope / 2; ++i) {
    double& f = frequencies[static_cast<std::size_t>(i)];
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    f = std::fma(f / scaling->factor, ramp, f * (1 - ramp));
  }
  return frequencies;
}

/// What cos and sin are multiplied by: mscale over mscale_all_dim; 1 for DeepSeek-V3, where they are equal.
inline double rope_magnitude(const std::optional<RopeScaling>& scaling) {
  if (!scaling) return 1.0;
  return yarn_mscale(scaling->factor, scaling->mscale) /
         yarn_mscale(scaling->factor, scaling->mscale_all_dim);
}

/// Factor of attention scores: 1 / sqrt(qk_head_dim), times mscale_all_dim's mscale squared under YaRN
/// (0.1352338 for DeepSeek-V3).
inline double attention_scale(Index qk_head_dim, const std::optional<RopeScaling>& scaling) {
  const double mscale = scaling ? yarn_mscale(scaling->factor, scaling->mscale_all_dim) : 1.0;
  return mscale * mscale / std::sqrt(static_cast<double>(qk_head_dim));
}

}  // namespace mtpx
