#pragma once

#include "core/parallel.hpp"
#include "race.hpp"

#include "../sampling.hpp"
#include "../shapes.hpp"

namespace mtpx {

/// y[r, tokens[j]] = logits[r, j], and minus infinity everywhere else: a row in which only some tokens have a
/// chance.   logits: [rows, width]   tokens: [width], ascending   y: [rows, vocab] dense
template <typename A>
void spread_logits(const Cpu& cpu, Rows rows, const A* logits, const std::int32_t* tokens, Index vocab,
                   A* y) {
  cpu::parallel_for(cpu, rows.count, [&](Index r) {
    A* const to = y + r * vocab;
    std::fill_n(to, vocab, -std::numeric_limits<A>::infinity());
    for (Index j = 0; j < rows.width; ++j) to[tokens[j]] = logits[r * rows.stride + j];
  });
}

/// ids[r] = the place of the largest of logits [rows, width], the lowest among equals. NaN never wins. Here
/// and below as token_or_not() gives it.
template <typename A>
void argmax_rows(const Cpu&, Rows rows, const A* logits, std::int32_t* ids) {
  for (Index r = 0; r < rows.count; ++r) {
    const std::span<const A> z(logits + r * rows.stride, static_cast<std::size_t>(rows.width));
    const std::int32_t id = cpu::argmax_of_row(z);
    ids[r] = token_or_not(id, z[static_cast<std::size_t>(id)]);
  }
}

/// ids[r] = the `best` tokens of row r that win the race of draws[r], in their order, of them the first as
/// above and no_token behind those that have a chance (../sampling.hpp).   logits: [rows, width]   draws:
/// [rows] ids: [rows, best]
template <typename A>
void race_rows(const Cpu& cpu, Rows rows, const A* logits, const Draw* draws, Index best, std::int32_t* ids) {
  cpu::parallel_for(cpu, rows.count, [&](Index r) {
    const std::span<const A> z(logits + r * rows.stride, static_cast<std::size_t>(rows.width));
    const std::span<std::int32_t> mine(ids + r * best, static_cast<std::size_t>(best));
    cpu::race_of_row(z, draws[r].sampling, draws[r].noise, mine);
    mine[0] = token_or_not(mine[0], z[static_cast<std::size_t>(mine[0])]);
  });
}

/// ids[r] = a token drawn from distribution() of row r, as draws[r] says: that at which the cumulated
/// probabilities pass its number. The distributions can be kept, NaN where no token can be chosen.
/// logits: [rows, width]   draws, ids: [rows]
template <typename A>
void draw_rows(const Cpu& cpu, Rows rows, const A* logits, const Draw* draws, std::int32_t* ids,
               const Kept& kept) {
  const auto width = static_cast<std::size_t>(rows.width);
  cpu::parallel_for(cpu, rows.count, [&](Index r) {
    thread_local std::vector<std::int32_t> order;  // kept, so that decoding allocates nothing
    double* const to =
        kept.table != nullptr ? kept.table + kept.rows[r] * rows.width : cpu::scratch<double>(rows.width, 2);
    const std::span<double> p(to, width);
    const std::span<const A> z(logits + r * rows.stride, width);
    distribution(z, draws[r].sampling, p, order, cpu::weights_of_row<A>);
    const std::int32_t id = sample(p, draws[r].number);
    ids[r] = token_or_not(id, z[static_cast<std::size_t>(id)]);
    if (ids[r] < 0) std::fill(p.begin(), p.end(), std::numeric_limits<double>::quiet_NaN());
  });
}

}  // namespace mtpx
