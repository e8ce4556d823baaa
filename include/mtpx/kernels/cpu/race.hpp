#pragma once
// race() of ../sampling.hpp, fast where the vocabulary is large: tokens that cannot win are skipped, which
// changes nothing, and cuts sort no more than what they may keep.

#include "core/parallel.hpp"
#include "core/simd.hpp"
#include "normals.hpp"

#include "../sampling.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <span>
#include <utility>
#include <vector>

namespace mtpx {

namespace cpu {

namespace detail {
template <int apart, int... j>
inline Vec<float> max_with_others(Vec<float> v, std::integer_sequence<int, j...>) {
  return max(v, __builtin_shufflevector(v, v, (j ^ apart)...));
}
template <int apart>
inline Vec<float> max_everywhere(Vec<float> v) {
  v = max_with_others<apart>(v, std::make_integer_sequence<int, static_cast<int>(lanes<float>)>());
  if constexpr (apart > 1) v = max_everywhere<apart / 2>(v);
  return v;
}
}  // namespace detail

/// The largest element, of which none is NaN.
inline float largest(Vec<float> v) {
  return detail::max_everywhere<static_cast<int>(lanes<float>) / 2>(v)[0];
}

/// A group of logits as floats, rounded where they are doubles; -inf where there are none, and for NaN.
struct LogitGroup {
  static constexpr int registers = static_cast<int>(Noise::group / lanes<float>);
  Vec<float> at[registers];

  template <typename A>
  LogitGroup(const A* z, Index count) {
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    float numbers[Noise::group];
    const float* from = numbers;
    if constexpr (std::is_same_v<A, float>) {
      if (count >= Noise::group) from = z;
    }
    if (from == numbers) {
      for (Index i = 0; i < Noise::group; ++i) numbers[i] = i < count ? static_cast<float>(z[i]) : nothing;
    }
    for (int r = 0; r < registers; ++r) {
      const Vec<float> v = load(from + r * lanes<float>);
      at[r] = v == v ? v : broadcast(nothing);
    }
  }
  float largest() const {
    Vec<float> all = at[0];
    for (int r = 1; r < registers; ++r) all = max(all, at[r]);
    return cpu::largest(all);
  }
};

/// argmax() of a row, a register at a time.
template <typename A>
std::int32_t argmax_of_row(std::span<const A> z) {
  const auto width = static_cast<Index>(z.size());
  const Vec<A> none = broadcast(-std::numeric_limits<A>::infinity());
  Vec<A> most[4] = {none, none, none, none};
  Index i = 0;
  for (; i + 4 * lanes<A> <= width; i += 4 * lanes<A>) {
    for (int r = 0; r < 4; ++r) {
      const Vec<A> v = load(z.data() + i + r * lanes<A>);
      most[r] = v > most[r] ? v : most[r];  // never NaN
    }
  }
  A top = -std::numeric_limits<A>::infinity();
  for (const Vec<A>& v : most) {
    for (int l = 0; l < static_cast<int>(lanes<A>); ++l) top = v[l] > top ? v[l] : top;
  }
  for (; i < width; ++i) {
    const A v = z[static_cast<std::size_t>(i)];
    top = v > top ? v : top;
  }
  const auto first = std::find(z.begin(), z.end(), top);
  return first == z.end() ? 0 : static_cast<std::int32_t>(first - z.begin());  // NaN alone
}

/// What temperature, top-k and top-p leave of a row: every logit above `level`, and of those that equal it
/// the ones before id `end`.
template <typename A>
struct Cut {
  A level = -std::numeric_limits<A>::infinity();
  std::size_t end = std::numeric_limits<std::size_t>::max();

  bool keeps(A z, std::size_t id) const { return z > level || (z == level && id < end); }
};

/// e^((z - top) / temperature) of a register's logits from i on; 0 for NaN, and where the row has ended.
template <typename A>
Vec<double> weights_at(std::span<const A> z, std::size_t i, double top, double temperature) {
  constexpr auto step = static_cast<std::size_t>(lanes<double>);
  constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
  double numbers[step];
  const std::size_t count = std::min(step, z.size() - i);
  if (count == step) {
    for (std::size_t l = 0; l < step; ++l) numbers[l] = static_cast<double>(z[i + l]);
  } else {
    for (std::size_t l = 0; l < step; ++l) numbers[l] = l < count ? static_cast<double>(z[i + l]) : nothing;
  }
  const Vec<double> x = load(numbers);
  const Vec<double> below =
      x == broadcast(top) ? broadcast(0.0) : (x - broadcast(top)) / broadcast(temperature);
  return x == x ? exp(below) : broadcast(0.0);  // by x: the largest of NaN alone is NaN, too
}

/// weights_of() a register at a time.
template <typename A>
void weights_of_row(std::span<const A> z, double top, double temperature, std::span<double> p) {
  constexpr auto step = static_cast<std::size_t>(lanes<double>);
  for (std::size_t i = 0; i < z.size(); i += step)
    store_up_to(p.data() + i, weights_at(z, i, top, temperature), static_cast<Index>(z.size() - i));
}

/// The sum of these over a row.
template <typename A>
double total_weight(std::span<const A> z, double top, double temperature) {
  RowSum<double> sum;
  for (std::size_t i = 0; i < z.size(); i += static_cast<std::size_t>(lanes<double>))
    sum.add(static_cast<Index>(i), weights_at(z, i, top, temperature));
  return sum.total();
}

/// The tokens that distribution() leaves a chance, by what they have in common.   top: the largest logit
template <typename A>
Cut<A> cut_of_row(std::span<const A> z, A top, const SamplingOptions& options) {
  thread_local std::vector<std::int32_t> ids;  // kept, so that decoding allocates nothing
  thread_local std::vector<A> largest_of;
  const auto weight = [&](A v) {
    return v == top ? 1.0
                    : exact::exp((static_cast<double>(v) - static_cast<double>(top)) / options.temperature);
  };
  const bool some = options.top_k > 0 && options.top_k < static_cast<Index>(z.size());
  const std::size_t most = some ? static_cast<std::size_t>(options.top_k) : z.size();
  double floor = -std::numeric_limits<double>::infinity(), total = 0;  // nothing below it is kept
  constexpr std::size_t part = 64;
  if (some && most <= z.size() / part) {
    // As many parts have a logit that is no smaller than their k-th largest.
    largest_of.clear();
    for (std::size_t i = 0; i < z.size(); i += part)
      largest_of.push_back(
          z[i + static_cast<std::size_t>(argmax_of_row(z.subspan(i, std::min(part, z.size() - i))))]);
    for (A& v : largest_of) v = v == v ? v : -std::numeric_limits<A>::infinity();
    const auto kth = largest_of.begin() + static_cast<std::ptrdiff_t>(most - 1);
    std::nth_element(largest_of.begin(), kth, largest_of.end(), std::greater<>());
    floor = static_cast<double>(*kth);
  } else if (!some) {
    // What comes from a kept token on has more than 1 - top_p of the weight, and that token the most of it.
    total = total_weight(z, static_cast<double>(top), options.temperature);
    const double least = (1 - options.top_p) * total / static_cast<double>(z.size());
    floor = static_cast<double>(top) + options.temperature * (exact::log(least) - 0.01);  // for roundings
  }
  ids.clear();
  for (std::size_t i = 0; i < z.size(); ++i) {
    if (static_cast<double>(z[i]) >= floor) ids.push_back(static_cast<std::int32_t>(i));
  }
  const auto at = [&](std::size_t i) { return z[static_cast<std::size_t>(ids[i])]; };
  const auto likelier = [&](std::int32_t a, std::int32_t b) {
    const A za = z[static_cast<std::size_t>(a)], zb = z[static_cast<std::size_t>(b)];
    return za != zb ? za > zb : a < b;
  };
  const auto place = [&](std::size_t i) { return ids.begin() + static_cast<std::ptrdiff_t>(i); };
  std::size_t last = ids.size();  // ids[last - 1] is the last one kept
  if (some && most < ids.size()) {
    std::nth_element(ids.begin(), place(most - 1), ids.end(), likelier);
    last = most;
  } else if (options.top_p >= 1) {
    return {static_cast<A>(floor)};  // no more numbers than may be kept
  }
  if (options.top_p < 1) {
    if (some) {
      for (std::size_t i = 0; i < last; ++i) total += weight(at(i));
    }
    // By halves: the likelier one is either not enough, or has the end.
    const double target = options.top_p * total;
    double sum = 0;
    std::size_t from = 0, to = last;
    while (to - from > 32) {
      const std::size_t middle = from + (to - from) / 2;
      std::nth_element(place(from), place(middle), place(to), likelier);
      double up_to_it = sum;
      for (std::size_t i = from; i < middle; ++i) up_to_it += weight(at(i));
      if (up_to_it >= target) {
        to = middle;
      } else {
        sum = up_to_it;
        from = middle;
      }
    }
    std::sort(place(from), place(to), likelier);
    for (last = from; last < to && (last == from || sum < target); ++last) sum += weight(at(last));
  }
  if (last == 0) return {};
  return {at(last - 1), static_cast<std::size_t>(ids[last - 1]) + 1};
}

/// The best tokens of a race, found so far.
class RaceList {
 public:
  /// best: of as many as it holds, written in their order
  explicit RaceList(std::span<std::int32_t> best) : ids_(best) {
    scores().assign(best.size(), 0.0);
    std::fill(ids_.begin(), ids_.end(), no_token);
  }

  /// Whether another one must beat one of them.
  bool full() const { return count_ == ids_.size(); }
  /// The last of them; of no meaning where none is.
  double least() const { return scores()[count_ - 1]; }

  /// Puts a token in its place, if it is among the best. On ties the lowest id comes first.
  void add(double score, std::int32_t id) {
    const auto beats = [&](std::size_t i) {
      return score > scores()[i] || (score == scores()[i] && id < ids_[i]);
    };
    std::size_t place = full() ? count_ - 1 : count_++;
    if (place + 1 == count_ && ids_[place] != no_token && !beats(place)) return;
    for (; place > 0 && beats(place - 1); --place) {
      ids_[place] = ids_[place - 1];
      scores()[place] = scores()[place - 1];
    }
    ids_[place] = id;
    scores()[place] = score;
  }

 private:
  static std::vector<double>& scores() {
    thread_local std::vector<double> memory;  // kept, so that decoding allocates nothing
    return memory;
  }

  std::span<std::int32_t> ids_;
  std::size_t count_ = 0;
};

/// race() of a row, in which tokens that cannot be among the best are skipped. The likeliest token is the
/// first in the list; once that is full another must beat its last by its logit and the most that its noise
/// can be. That is seen in float, of 64 tokens side by side, first without any noise, then by the leading
/// bits of its high half alone: a few tokens are left, whose scores are computed.
template <typename A>
void race_of_row(std::span<const A> z, const SamplingOptions& options, const Noise& noise,
                 std::span<std::int32_t> ids) {
  const std::int32_t top = argmax_of_row(z);
  const A z_top = z[static_cast<std::size_t>(top)];
  if (options.greedy() && ids.size() == 1) {
    ids[0] = top;
    return;
  }
  if (!options.greedy() && !(options.temperature > 1e-30 && options.temperature < 1e30))
    return race(z, options, noise, ids);
  RaceList best(ids);
  const auto width = static_cast<Index>(z.size());
  const auto races = [&](std::size_t id) {
    return may_race(static_cast<double>(z[id]), static_cast<double>(z_top), options);
  };
  if (options.greedy()) {
    for (std::size_t id = 0; id < z.size(); ++id) {
      if (races(id)) best.add(static_cast<double>(z[id]), static_cast<std::int32_t>(id));
    }
    if (ids[0] == no_token) ids[0] = top;
    return;
  }
  const Cut<A> cut = options.cuts(width) ? cut_of_row(z, z_top, options) : Cut<A>{};
  const auto score = [&](std::size_t id) {
    return race_score(static_cast<double>(z[id]), options, noise, static_cast<Index>(id));
  };
  // Of a token that can win, logit / temperature is not beyond `size`; five roundings of that are less than
  // the 2^-20 of it that `least` is too low.
  const auto least_of = [&] {
    if (!best.full()) return -std::numeric_limits<float>::infinity();
    const double most = best.least();
    const double size = std::max(std::abs(static_cast<double>(z_top) / options.temperature),
                                 std::abs(most - exact::most_noise));
    return static_cast<float>(most - 0x1p-20 * (size + 64));
  };
  best.add(score(static_cast<std::size_t>(top)), top);
  float least = least_of();
  const auto level = static_cast<float>(cut.level);
  const auto inverse = static_cast<float>(1 / options.temperature);
  constexpr Index step = lanes<float>, words_apart = Noise::blocks / step;
  for (Index first = 0; first < width; first += Noise::group) {
    const LogitGroup group(z.data() + first, width - first);
    const float highest = group.largest();
    if (highest < level || exact::fma(highest, inverse, static_cast<float>(exact::most_noise)) < least)
      continue;
    for (Index part = 0; part < words_apart; ++part) {
      exact::Words<Vec<float>> words[4];
      words_of_blocks(noise.seed, Noise::high, noise.counter(first / Noise::group, part * step), words);
      Vec<float> bound[4];
      for (int j = 0; j < 4; ++j) {
        bound[j] = fma(group.at[j * static_cast<int>(words_apart) + static_cast<int>(part)],
                       broadcast(inverse), exact::noise_bound<Vec<float>>(words[j]));
      }
      if (largest(max(max(bound[0], bound[1]), max(bound[2], bound[3]))) < least) continue;
      for (Index i = 0; i < 4 * step; ++i) {
        if (bound[i / step][static_cast<int>(i % step)] < least) continue;
        const auto id = static_cast<std::size_t>(first + i / step * Noise::blocks + part * step + i % step);
        if (id >= z.size() || static_cast<std::int32_t>(id) == top || !cut.keeps(z[id], id) || !races(id))
          continue;
        best.add(score(id), static_cast<std::int32_t>(id));
        least = least_of();
      }
    }
  }
}

}  // namespace cpu

}  // namespace mtpx
