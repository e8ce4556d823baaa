#include <mtpx/core/rng.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/kernels/cpu.hpp>

#include <doctest/doctest.h>

#include <array>
#include <functional>
#include <map>

using namespace mtpx;

TEST_SUITE_BEGIN("kernels/verify.hpp");

namespace {

using Numbers = std::vector<double>;
using TokenIds = std::vector<std::int32_t>;
constexpr double almost_one = 0x1.fffffffffffffp-1;

/// The share of u in [0, 1) for which `holds`, which is true up to some point and false from there on.
double share(const std::function<bool(double)>& holds) {
  if (!holds(0)) return 0;
  if (holds(almost_one)) return 1;
  double low = 0, high = 1;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (holds(middle) ? low : high) = middle;
  }
  return high;
}

/// A round that owns its numbers.   p: [K + 1, V]   q: [K, V]
class OwnRound : public cpu::HostRound {
 public:
  OwnRound(TokenIds drafts_, Numbers p_, Numbers q_, Numbers keeps_, Numbers draws_)
      : tokens_(std::move(drafts_)),
        numbers_{std::move(p_), std::move(q_), std::move(keeps_), std::move(draws_)} {
    count = static_cast<Index>(tokens_.size());
    vocab = static_cast<Index>(numbers_[0].size()) / (count + 1);
    drafts = tokens_.data();
    p_rows = numbers_[0].data();
    q_rows = numbers_[1].data();
    keeps = numbers_[2].data();
    draws = numbers_[3].data();
  }
  OwnRound(const OwnRound&) = delete;

 private:
  TokenIds tokens_;
  std::array<Numbers, 4> numbers_;
};

/// n times the same row, one below the other.
Numbers times(std::size_t n, const Numbers& row) {
  Numbers all;
  for (std::size_t i = 0; i < n; ++i) all.insert(all.end(), row.begin(), row.end());
  return all;
}

Numbers residual_of(const Numbers& p, const Numbers& q, double r = 1) {
  const OwnRound round({0}, times(2, p), q, {0}, {0, 0});
  Numbers rest;
  for (Index x = 0; x < round.vocab; ++x) rest.push_back(round.residual(0, r, x) / round.left(0, r));
  return rest;
}

/// Conditional distributions of a made-up language, some of their entries zero: what follows `prefix`.
Numbers conditional(std::uint64_t seed, const TokenIds& prefix, std::size_t vocab) {
  std::uint64_t code = 1;
  for (const std::int32_t t : prefix) code = code * (vocab + 1) + static_cast<std::uint64_t>(t) + 1;
  Numbers p;
  double total = 0;
  for (std::size_t t = 0; t < vocab; ++t) {
    const double u = Philox::uniform(seed, code, t);
    p.push_back(u < 0.15 && t > 0 ? 0 : u * u + 0.01);
    total += p.back();
  }
  for (double& x : p) x /= total;
  return p;
}

enum class Rule { equal, tokens, block };

/// One round over K drafts after `prefix`, its random numbers given.
struct Round {
  Rule rule;
  bool drawn;  // drafts come from q; otherwise they are its most likely tokens
  std::uint64_t seed;
  std::size_t vocab;
  TokenIds prefix, drafts;
  Numbers p, q;           // [K + 1, vocab], [K, vocab]
  unsigned left_out = 0;  // tokens, as bits, that are never drafted

  Round(Rule rule_, bool drawn_, std::uint64_t seed_, std::size_t vocab_, TokenIds prefix_)
      : rule(rule_), drawn(drawn_), seed(seed_), vocab(vocab_), prefix(std::move(prefix_)) {
    append(p, conditional(seed, prefix, vocab));
  }

  static void append(Numbers& rows, const Numbers& row) { rows.insert(rows.end(), row.begin(), row.end()); }

  Numbers next_q() const {
    TokenIds longer = prefix;
    longer.insert(longer.end(), drafts.begin(), drafts.end());
    Numbers from = conditional(seed + 1000, longer, vocab);
    double rest = 0;
    for (std::size_t t = 0; t < vocab; ++t) rest += from[t] *= (left_out >> t & 1U) != 0 ? 0 : 1;
    for (double& x : from) x /= rest;
    if (drawn) return from;
    const std::int32_t best = mtpx::argmax(std::span<const double>(from));
    Numbers one_hot(vocab, 0.0);
    one_hot[static_cast<std::size_t>(best)] = 1;
    return one_hot;
  }
  void draft(std::int32_t token) {
    append(q, next_q());
    drafts.push_back(token);
    TokenIds longer = prefix;
    longer.insert(longer.end(), drafts.begin(), drafts.end());
    append(p, conditional(seed, longer, vocab));
  }

  Verdict run(const Numbers& keeps, const Numbers& draws) const {
    const OwnRound round(drafts, p, q, keeps, draws);
    if (rule == Rule::equal)
      return verify_equal([&](Index i) { return round.next(i); },
                          [&](Index i, std::int32_t x) {
                            return i < round.count && drafts[static_cast<std::size_t>(i)] == x ? i + 1 : -1;
                          });
    return rule == Rule::tokens ? verify_tokens(round) : verify_block(round);
  }

  struct Branch {
    Verdict verdict;
    double chance;
  };

  /// Every verdict and its chance, found by asking run() alone.
  std::vector<Branch> branches() const {
    const std::size_t k = drafts.size();
    std::vector<Branch> all;
    if (rule == Rule::equal) {
      double so_far = 1;
      for (std::size_t a = 0; a <= k; ++a) {
        const Numbers of = token_shares({}, a);
        for (std::size_t t = 0; t < vocab; ++t) {
          const bool stands = a < k && static_cast<std::int32_t>(t) == drafts[a];
          if (!stands) all.push_back({{static_cast<Index>(a), static_cast<std::int32_t>(t)}, so_far * of[t]});
        }
        if (a < k) so_far *= of[static_cast<std::size_t>(drafts[a])];
      }
      return all;
    }
    for (std::size_t a = 0; a <= k; ++a) {
      Numbers keeps(k + 1, almost_one);
      double chance = 1;
      if (rule == Rule::tokens) {  // those before stood, this one fell
        for (std::size_t i = 0; i <= a && i < k; ++i) {
          Numbers at(k + 1, almost_one);
          std::fill_n(at.begin(), i, 0.0);
          const double stands = share([&](double u) {
            at[i] = u;
            return run(at, Numbers(k + 1, 0.5)).accepted > static_cast<Index>(i);
          });
          chance *= i < a ? stands : 1 - stands;
        }
        std::fill_n(keeps.begin(), a, 0.0);
      } else {  // this prefix is good, no longer one is
        for (std::size_t i = std::max<std::size_t>(a, 1); i <= k; ++i) {
          Numbers at(k + 1, almost_one);
          const double good = share([&](double u) {
            at[i - 1] = u;
            return run(at, Numbers(k + 1, 0.5)).accepted >= static_cast<Index>(i);
          });
          chance *= i == a ? good : 1 - good;
        }
        if (a > 0) keeps[a - 1] = 0;
      }
      if (chance <= 0) continue;
      const Numbers of = token_shares(keeps, a);
      for (std::size_t t = 0; t < vocab; ++t)
        all.push_back({{static_cast<Index>(a), static_cast<std::int32_t>(t)}, chance * of[t]});
    }
    return all;
  }

 private:
  /// The shares of draws that give each token at place `a`.
  Numbers token_shares(const Numbers& keeps, std::size_t a) const {
    Numbers shares;
    double below = 0;
    for (std::size_t t = 0; t < vocab; ++t) {
      const double up_to = share([&](double u) {
        if (rule == Rule::equal)
          return sample(std::span(p).subspan(a * vocab, vocab), u) <= static_cast<std::int32_t>(t);
        Numbers draws(drafts.size() + 1, 0.5);
        draws[a] = u;
        return run(keeps, draws).next <= static_cast<std::int32_t>(t);
      });
      shares.push_back(up_to - below);
      below = up_to;
    }
    return shares;
  }
};

/// The joint distribution of the next n tokens as rounds of K drafts emit them, [vocab^n]; and the mean
/// number of drafts that stand in a round.
struct Enumeration {
  Rule rule;
  bool drawn;
  std::uint64_t seed;
  std::size_t vocab, drafts;
  unsigned left_out = 0;
  std::map<std::pair<TokenIds, std::size_t>, Numbers> known{};
  double accepted = 0;  // in the first round

  const Numbers& joint(const TokenIds& prefix, std::size_t n) {
    const auto found = known.find({prefix, n});
    if (found != known.end()) return found->second;
    std::size_t cells = 1;
    for (std::size_t i = 0; i < n; ++i) cells *= vocab;
    Numbers out(cells, 0.0);
    const std::function<void(Round, double)> each = [&](const Round& round, double chance) {
      if (round.drafts.size() < drafts) {
        const Numbers q = round.next_q();
        for (std::size_t t = 0; t < vocab; ++t) {
          if (q[t] == 0) continue;
          Round longer = round;
          longer.draft(static_cast<std::int32_t>(t));
          each(longer, chance * q[t]);
        }
        return;
      }
      for (const auto& [verdict, weight] : round.branches()) {
        if (prefix.empty()) accepted += chance * weight * static_cast<double>(verdict.accepted);
        TokenIds emitted(round.drafts.begin(), round.drafts.begin() + verdict.accepted);
        emitted.push_back(verdict.next);
        std::size_t cell = 0;
        for (std::size_t i = 0; i < std::min(n, emitted.size()); ++i)
          cell = cell * vocab + static_cast<std::size_t>(emitted[i]);
        if (emitted.size() >= n) {
          out[cell] += chance * weight;
          continue;
        }
        TokenIds longer = prefix;
        longer.insert(longer.end(), emitted.begin(), emitted.end());
        const Numbers rest = joint(longer, n - emitted.size());
        for (std::size_t c = 0; c < rest.size(); ++c)
          out[cell * rest.size() + c] += chance * weight * rest[c];
      }
    };
    Round first(rule, drawn, seed, vocab, prefix);
    first.left_out = left_out;
    each(first, 1);
    return known[{prefix, n}] = out;
  }
};

/// What the language itself says of the next three tokens.
Numbers language(std::uint64_t seed, std::size_t vocab) {
  Numbers all;
  const Numbers pa = conditional(seed, {}, vocab);
  for (std::size_t a = 0; a < vocab; ++a) {
    const auto ta = static_cast<std::int32_t>(a);
    const Numbers pb = conditional(seed, {ta}, vocab);
    for (std::size_t b = 0; b < vocab; ++b) {
      const Numbers pc = conditional(seed, {ta, static_cast<std::int32_t>(b)}, vocab);
      for (std::size_t c = 0; c < vocab; ++c) all.push_back(pa[a] * pb[b] * pc[c]);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("residual: max(0, r p - q), normalised; p where nothing is left") {
  const Numbers p{0.5, 0.25, 0.25}, q{0.25, 0.5, 0.25};
  CHECK(residual_of(p, q) == Numbers{1, 0, 0});
  CHECK(residual_of(p, Numbers{0, 1, 0}) == Numbers{2 / 3.0, 0, 1 / 3.0});
  // p == q: the token that p itself gives.
  for (const double u : {0.0, 0.49, 0.5, 0.74, 0.75, almost_one})
    CHECK(replace_draft(OwnRound({1}, times(2, p), p, {0.5}, {u, 0}), 0, 1) == sample(p, u));
  CHECK(residual_of(p, Numbers{0, 0, 1}, 0.5) == Numbers{2 / 3.0, 1 / 3.0, 0});
}

TEST_CASE("verify: drafts that the main model rules out never stand, and nothing ruled out is emitted") {
  const Numbers sure = times(3, {0, 1, 0}), other = times(2, {0.5, 0, 0.5});
  const TokenIds drafts{0, 1}, same{1, 1};
  for (const double u : {0.0, 0.5, almost_one}) {
    const Numbers keeps(2, u), draws(3, u);
    const OwnRound ruled_out(drafts, sure, other, keeps, draws);
    CHECK(verify_tokens(ruled_out) == Verdict{0, 1});
    CHECK(verify_block(ruled_out) == Verdict{0, 1});
    CHECK(verify_typical(ruled_out, 0.0, 0.3) == Verdict{0, 1});
    // p == q: everything stands, whatever the numbers.
    const OwnRound equal(same, sure, sure, keeps, draws);
    CHECK(verify_tokens(equal) == Verdict{2, 1});
    CHECK(verify_block(equal) == Verdict{2, 1});
  }
}

TEST_CASE("verify: no draft at all is plain sampling") {
  const Numbers p{0.25, 0.5, 0.25};
  for (const double u : {0.0, 0.3, 0.9}) {
    const Numbers draws{u};
    const OwnRound round({}, p, {}, {}, draws);
    const Verdict plain{0, sample(p, u)};
    CHECK(verify_equal([&](Index) { return sample(p, u); }, [](Index, std::int32_t) { return Index{-1}; }) ==
          plain);
    CHECK(verify_tokens(round) == plain);
    CHECK(verify_block(round) == plain);
    CHECK(verify_typical(round, 0.09, 0.3) == plain);
  }
}

TEST_CASE("verify_rounds: a token from what is no distribution is negative, by every rule") {
  const double none = std::numeric_limits<double>::quiet_NaN();
  const Numbers table{none, none, /**/ 0.5, 0.5, /**/ none, none, /**/ 0.5, 0.5};
  RoundList rounds(1);
  const auto number = [](std::size_t) { return 0.25; };
  const TokenIds draft{1};
  rounds.add(draft, 0, 3, number, number);                       // p_0
  rounds.add(draft, 1, 3, number, number);                       // p_1, behind a draft that stands
  rounds.add(std::span(draft).first(0), 0, -1, number, number);  // p_0, without a draft
  const DraftRounds all{rounds.layout(),         3,           2, rounds.integers().data(),
                        rounds.numbers().data(), table.data()};
  for (const Verification by : {Verification::exact, Verification::block, Verification::lossy_typical}) {
    std::vector<Verdict> verdicts(3);
    verify_rounds(Cpu(2), {by}, all, verdicts.data());
    CHECK(verdicts == std::vector<Verdict>{{0, -1}, {1, -1}, {0, -1}});
  }
}

TEST_CASE("verify_rounds: rounds side by side are each settled alone, chosen drafts as if q were one-hot") {
  // A language of five tokens; up to three drafts a round.
  constexpr std::size_t vocab = 5, most = 3, count = 60;
  Numbers table;
  RoundList drawn(most), chosen(most);
  std::vector<Verdict> alone, alone_chosen;
  std::uint64_t next = 0;
  const auto uniform = [&] { return Philox::uniform(5, 6, next++); };
  const auto rows_of = [&](std::size_t n) {
    Numbers rows;
    for (std::size_t i = 0; i < n; ++i) {
      const Numbers row = conditional(8, {static_cast<std::int32_t>(uniform() * 4)}, vocab);
      rows.insert(rows.end(), row.begin(), row.end());
    }
    return rows;
  };
  for (const VerifyRule& rule :
       {VerifyRule{}, VerifyRule{Verification::block}, VerifyRule{Verification::lossy_typical}}) {
    table.assign(vocab, -1);  // row 0 is nobody's
    drawn.clear(), chosen.clear(), alone.clear(), alone_chosen.clear();
    for (std::size_t s = 0; s < count; ++s) {
      const std::size_t k = s % (most + 1);
      const Numbers p = rows_of(k + 1), q = rows_of(k);
      TokenIds drafts;
      for (std::size_t i = 0; i < k; ++i) drafts.push_back(static_cast<std::int32_t>(uniform() * 5));
      Numbers keeps, draws, one_hot(k * vocab, 0.0);
      for (std::size_t i = 0; i < k; ++i) one_hot[i * vocab + static_cast<std::size_t>(drafts[i])] = 1;
      for (std::size_t i = 0; i < k; ++i) keeps.push_back(uniform());
      for (std::size_t i = 0; i <= k; ++i) draws.push_back(uniform());
      alone.push_back(verify(rule, OwnRound(drafts, p, q, keeps, draws)));
      alone_chosen.push_back(verify(rule, OwnRound(drafts, p, one_hot, keeps, draws)));
      const auto rows = [&] { return static_cast<Index>(table.size() / vocab); };
      const Index q_row = rows();
      table.insert(table.end(), q.begin(), q.end());
      const auto keep = [&](std::size_t i) { return keeps[i]; };
      const auto draw = [&](std::size_t i) { return draws[i]; };
      drawn.add(drafts, rows(), q_row, keep, draw);
      chosen.add(drafts, rows(), -1, keep, draw);
      table.insert(table.end(), p.begin(), p.end());
    }
    for (const RoundList* list : {&drawn, &chosen}) {
      std::vector<Verdict> verdicts(count, {-1, -1});
      const DraftRounds rounds{list->layout(),         count,       vocab, list->integers().data(),
                               list->numbers().data(), table.data()};
      verify_rounds(Cpu(2), rule, rounds, verdicts.data());
      CHECK(verdicts == (list == &drawn ? alone : alone_chosen));
    }
  }
}

TEST_CASE("the next three tokens, by exact enumeration of every rule, are the model's to 1e-12") {
  for (const std::uint64_t seed : {1U, 2U, 3U}) {
    const Numbers expected = language(seed, 3);
    double by_token = 0;
    for (const std::pair<Rule, bool>& way : {std::pair{Rule::equal, false},
                                             {Rule::tokens, false},
                                             {Rule::tokens, true},
                                             {Rule::block, false},
                                             {Rule::block, true}}) {
      const Rule rule = way.first;
      const bool drawn = way.second;
      for (const std::pair<std::size_t, unsigned>& drafting :
           {std::pair{std::size_t{1}, 0U}, {2, 0U}, {3, 0U}, {1, 2U}, {2, 4U}, {3, 6U}}) {
        const std::size_t drafts = drafting.first;
        const unsigned left_out = drafting.second;
        Enumeration all{rule, drawn, seed, 3, drafts, left_out};
        const Numbers got = all.joint({}, 3);
        double worst = 0;
        for (std::size_t i = 0; i < got.size(); ++i) worst = std::max(worst, std::abs(got[i] - expected[i]));
        INFO("rule " << static_cast<int>(rule) << ", drawn " << drawn << ", K = " << drafts << ", left out "
                     << left_out);
        CHECK(worst <= 1e-12);
        if (drafts != 3 || !drawn || left_out != 0) continue;
        // Sun et al. 2024, theorem 2: no fewer drafts stand.
        if (rule == Rule::tokens) by_token = all.accepted;
        if (rule == Rule::block) CHECK(all.accepted >= by_token - 1e-12);
      }
    }
  }
}

TEST_CASE("a million drawn tokens: chi-square, and acceptance as the formulas say") {
  constexpr std::size_t vocab = 4;
  constexpr int runs = 333334;  // of three tokens
  for (const std::pair<Rule, bool>& way :
       {std::pair{Rule::equal, false}, {Rule::tokens, true}, {Rule::block, true}}) {
    const Rule rule = way.first;
    const bool drawn = way.second;
    const std::uint64_t seed = 7;
    std::uint64_t at = 0;
    const auto uniform = [&] { return Philox::uniform(99, static_cast<std::uint64_t>(rule), at++); };
    // Rounds of two drafts after every prefix that can come up.
    std::map<TokenIds, Round> rounds;
    const auto round_after = [&](const TokenIds& prefix, const TokenIds& drafts) -> const Round& {
      TokenIds key = prefix;
      key.push_back(-1);
      key.insert(key.end(), drafts.begin(), drafts.end());
      const auto found = rounds.find(key);
      if (found != rounds.end()) return found->second;
      Round round(rule, drawn, seed, vocab, prefix);
      for (const std::int32_t t : drafts) round.draft(t);
      return rounds.emplace(key, round).first->second;
    };
    Numbers seen(vocab * vocab * vocab, 0.0);
    double stood = 0;
    for (int i = 0; i < runs; ++i) {
      TokenIds text;
      while (text.size() < 3) {
        TokenIds drafts;
        while (drafts.size() < 2) drafts.push_back(sample(round_after(text, drafts).next_q(), uniform()));
        const Numbers keeps{uniform(), uniform()};
        const Numbers draws{uniform(), uniform(), uniform()};
        const Verdict v = round_after(text, drafts).run(keeps, draws);
        if (text.empty() && v.accepted > 0) ++stood;
        text.insert(text.end(), drafts.begin(), drafts.begin() + v.accepted);
        text.push_back(v.next);
      }
      ++seen[static_cast<std::size_t>((text[0] * 4 + text[1]) * 4 + text[2])];
    }
    const Numbers expected = language(seed, vocab);
    double chi_square = 0, freedom = -1;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      const double e = expected[i] * runs;
      if (e == 0) {
        CHECK(seen[i] == 0);
        continue;
      }
      chi_square += (seen[i] - e) * (seen[i] - e) / e;
      ++freedom;
    }
    INFO("rule " << static_cast<int>(rule) << ": chi-square " << chi_square << " with " << freedom);
    CHECK(freedom > 30);
    CHECK(chi_square < freedom + 4 * std::sqrt(2 * freedom));
    // The first draft: sum min(p, q), or p of what q likes best. By blocks it stands at least as often.
    const Round first(rule, drawn, seed, vocab, {});
    const Numbers q = first.next_q();
    double overlap = 0;
    for (std::size_t t = 0; t < vocab; ++t) overlap += std::min(first.p[t], q[t]);
    const double share_stood = stood / runs;
    const double error = 4 * std::sqrt(overlap * (1 - overlap) / runs);
    INFO("stood " << share_stood << ", overlap " << overlap);
    if (rule == Rule::block) {
      CHECK(share_stood > overlap - error);
    } else {
      CHECK(std::abs(share_stood - overlap) < error);
    }
  }
}

TEST_CASE("verify_typical: by the threshold min(epsilon, delta e^-entropy)") {
  const Numbers flat{0.25, 0.25, 0.25, 0.25}, peaked{0.9, 0.08, 0.02, 0};
  const auto verdict = [](const Numbers& p, std::int32_t draft, double epsilon, double delta) {
    const TokenIds drafts{draft};
    const Numbers rows = times(2, p), none{0}, draws{0, 0};
    return verify_typical(OwnRound(drafts, rows, {}, none, draws), epsilon, delta).accepted;
  };
  CHECK(verdict(flat, 3, 0.09, 0.3) == 1);    // threshold 0.3 / 4
  CHECK(verdict(flat, 3, 0.5, 1.0) == 0);     // threshold 1 / 4, not exceeded
  CHECK(verdict(flat, 3, 0.5, 0.98) == 1);    // threshold 0.98 / 4
  CHECK(verdict(peaked, 1, 0.09, 0.3) == 0);  // threshold 0.09
  CHECK(verdict(peaked, 1, 0.07, 0.3) == 1);
  CHECK(verdict(peaked, 3, 0.0, 0.3) == 0);  // never a token of probability 0
}

TEST_SUITE_END();
