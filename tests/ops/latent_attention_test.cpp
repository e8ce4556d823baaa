#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/latent_attention.hpp>
#include <mtpx/ops/linear.hpp>

#include "support/card.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/ops/latent_attention.hpp");

namespace {

constexpr double factor = 0.7;
constexpr Index latent = 5;

/// Whole sequences: q, latent and k_rope of every token, as a prefill would have them.
template <typename T>
struct Sequences {
  AttentionShape s;
  Tensor<T, Device> q = random_tensor<T>({s.batch, s.time, s.heads*(s.nope + s.rope)}, 1);
  Tensor<T, Device> c = random_tensor<T>({s.batch, s.time, latent}, 2);
  Tensor<T, Device> k_rope = random_tensor<T>({s.batch, s.time, s.rope}, 3);
  Tensor<T, Device> w = random_tensor<T>({s.heads * (s.nope + s.v), latent}, 4);

  /// Keys and values expanded, then attention(): what absorbing avoids.
  Numbers expanded() const {
    Tape tape(Mode::inference);
    const auto kv = linear(tape.constant(c), Weight<T, Device>(w));
    return host(
        attention(tape.constant(q), kv, tape.constant(k_rope), s, static_cast<acc_t<T>>(factor)).value());
  }

  /// Decoded: `step` tokens of every sequence in one pass, sequences in turn or, backwards, in reverse.
  Numbers decoded(Index step, bool backwards = false) const {
    const Index width = s.heads * s.v;
    Numbers all(static_cast<std::size_t>(s.batch * s.time * width));
    const LatentCache<T, Device> cache{
        random_tensor<T>({s.batch, s.time + 3, latent + s.rope}, 5)};  // dirty: past tokens are overwritten
    for (Index begin = 0; begin < s.time; begin += step) {
      std::vector<std::int32_t> sequences, positions;
      for (Index b = 0; b < s.batch; ++b) {
        for (Index t = begin; t < std::min(s.time, begin + step); ++t) {
          sequences.push_back(static_cast<std::int32_t>(backwards ? s.batch - 1 - b : b));
          positions.push_back(static_cast<std::int32_t>(t));
        }
      }
      const auto count = static_cast<Index>(positions.size());
      const DecodeRows<Device> rows{tensor<std::int32_t>({count}, sequences),
                                    tensor<std::int32_t>({count}, positions)};
      const auto pick = [&](const Tensor<T, Device>& x) {
        std::vector<T> values;
        const std::vector<T> all_rows = x.to_host();
        const Index size = x.shape().width();
        for (std::size_t i = 0; i < positions.size(); ++i) {
          const auto from = all_rows.begin() + (sequences[i] * s.time + positions[i]) * size;
          values.insert(values.end(), from, from + size);
        }
        return tensor<T>({1, count, size}, values);
      };
      Tape tape(Mode::inference);
      const Numbers o =
          host(latent_attention(tape.constant(pick(q)), tape.constant(pick(c)), tape.constant(pick(k_rope)),
                                Weight<T, Device>(w), s, static_cast<acc_t<T>>(factor), rows, cache)
                   .value());
      for (std::size_t i = 0; i < positions.size(); ++i) {
        const auto from = o.begin() + static_cast<Index>(i) * width;
        std::copy(from, from + width, all.begin() + (sequences[i] * s.time + positions[i]) * width);
      }
    }
    return all;
  }

  /// Read as prompts, each in pieces that end at these tokens; then the cache.
  Numbers read(const std::vector<Index>& ends) const {
    Numbers all;
    const LatentCache<T, Device> cache{random_tensor<T>({s.batch, s.time + 3, latent + s.rope}, 5)};
    for (Index b = 0; b < s.batch; ++b) {
      Index begin = 0;
      for (const Index end : ends) {
        std::vector<std::int32_t> positions;
        for (Index t = begin; t < end; ++t) positions.push_back(static_cast<std::int32_t>(t));
        const Index n = end - begin;
        const DecodeRows<Device> rows{
            tensor<std::int32_t>(
                {n}, std::vector<std::int32_t>(static_cast<std::size_t>(n), static_cast<std::int32_t>(b))),
            tensor<std::int32_t>({n}, positions),
            {},
            {},
            {b, begin}};
        const auto part = [&](const Tensor<T, Device>& x) {
          const Index width = x.shape().width();
          return x.reshape({s.batch * s.time, width})
              .slice_front(b * s.time + begin, b * s.time + end)
              .reshape({1, n, width});
        };
        Tape tape(Mode::inference);
        const Numbers o =
            host(prompt_attention(tape.constant(part(q)), tape.constant(part(c)), tape.constant(part(k_rope)),
                                  Weight<T, Device>(w), s, static_cast<acc_t<T>>(factor), rows, cache)
                     .value());
        all.insert(all.end(), o.begin(), o.end());
        begin = end;
      }
    }
    const Numbers entries = host(cache.entries);
    all.insert(all.end(), entries.begin(), entries.end());
    return all;
  }
};

}  // namespace

TEST_CASE("prompt_attention equals attention(), bit for bit, whatever stands in the cache already") {
  const auto check = [](const auto& sequences, double bound) {
    const auto same = [&](const Numbers& got, const Numbers& want) {
      if (!on_gpu) return check_bits(got, want);
      check_close(got, want, bound);  // there its products take few rows by another path
    };
    const AttentionShape& s = sequences.s;
    const Numbers whole = sequences.read({s.time}), want = sequences.expanded();
    same(Numbers(whole.begin(), whole.begin() + static_cast<Index>(want.size())), want);
    for (const std::vector<Index>& ends :
         {std::vector<Index>{1, s.time}, {63, 64, s.time}, {64, 128, s.time}, {65, 66, 129, s.time}})
      same(sequences.read(ends), whole);
  };
  for (const AttentionShape& s : {AttentionShape{1, 131, 1, 1, 2, 1}, AttentionShape{2, 140, 3, 4, 2, 7}}) {
    check(Sequences<double>{s}, 1e-12);
    check(Sequences<float>{s}, float_bound);
    check(Sequences<bf16>{s}, bf16_bound);
    check_close(
        Sequences<double>{s}.read({50, s.time}),
        [&] {
          Numbers all = Sequences<double>{s}.decoded(1), read = Sequences<double>{s}.read({s.time});
          all.insert(all.end(), read.begin() + static_cast<Index>(all.size()), read.end());
          return all;
        }(),
        1e-12);
  }
}

TEST_CASE("absorbed attention equals the expanded one") {
  for (const AttentionShape& s : {AttentionShape{1, 1, 1, 1, 2, 1}, AttentionShape{2, 5, 1, 3, 2, 4},
                                  AttentionShape{2, 130, 3, 4, 2, 7}}) {
    const Sequences<double> sequences{s};
    check_close(sequences.decoded(1), sequences.expanded(), 1e-12);
  }
}

TEST_CASE("latent_attention: float and bf16") {
  const AttentionShape s{2, 70, 2, 8, 4, 8};
  const Numbers in_float = Sequences<float>{s}.decoded(1);
  check_close(in_float, Sequences<double>{s}.decoded(1), float_bound);
  check_close(Sequences<bf16>{s}.decoded(1), in_float, bf16_bound);  // only the output is rounded
}

TEST_CASE("latent_attention: a row's bits do not depend on the rows beside it") {
  const auto check = [](const auto& sequences) {
    const Numbers one_by_one = sequences.decoded(1);
    // Of 3 sequences each. On a GPU up to 64 rows a pass are promised to stand alone.
    for (const Index step : on_gpu ? std::vector<Index>{2, 3, 21} : std::vector<Index>{2, 3, 64, 70})
      check_bits(sequences.decoded(step), one_by_one);
    check_bits(sequences.decoded(3, true), one_by_one, "sequences in reverse");
    other_ways([&] { check_bits(sequences.decoded(3), one_by_one); });
  };
  const AttentionShape s{3, 70, 2, 3, 2, 4};
  check(Sequences<float>{s});
  check(Sequences<bf16>{s});
  check(Sequences<double>{{1, 290, 3, 3, 2, 4}});  // cut into parts
}

TEST_CASE("latent_attention: errors") {
  Tape tape(Mode::inference);
  const AttentionShape s{1, 2, 1, 3, 2, 4};
  const auto x = [](Tape& on, Index width) { return on.constant(random_tensor<double>({1, 2, width}, 1)); };
  const DecodeRows<Device> rows{tensor<std::int32_t>({2}, {0, 0}), tensor<std::int32_t>({2}, {0, 1})};
  const LatentCache<double, Device> cache{random_tensor<double>({1, 4, 7}, 1)};
  const auto w = weight(random_tensor<double>({7, 5}, 1));
  const auto run = [&](Tape& on, const auto& kv_b, const DecodeRows<Device>& at) {
    return latent_attention(x(on, 5), x(on, 5), x(on, 2), kv_b, s, factor, at, cache);
  };
  CHECK_NOTHROW(run(tape, w, rows));
  Tape recording;
  CHECK_THROWS_WITH_AS(run(recording, w, rows),
                       "[latent_attention] has no backward; use a tape in inference mode", Error);
  const DecodeRows<Device> fewer{tensor<std::int32_t>({1}, {0}), tensor<std::int32_t>({1}, {0})};
  CHECK_THROWS_WITH_AS(run(tape, w, fewer),
                       "[latent_attention] q, latent and k_rope need one dense row per decoded token"
                       "\n  q: [1, 2, 5]\n  latent: [1, 2, 5]\n  k_rope: [1, 2, 2]\n  rows: [1]",
                       ShapeError);
  const auto read = [&](Tape& on, const auto& kv_b, const PromptRows& prompt) {
    DecodeRows<Device> of = rows;
    of.prompt = prompt;
    return prompt_attention(x(on, 5), x(on, 5), x(on, 2), kv_b, s, factor, of, cache);
  };
  CHECK_NOTHROW(read(tape, w, {0, 2}));
  CHECK_THROWS_WITH_AS(read(recording, w, {0, 0}),
                       "[prompt_attention] has no backward; use a tape in inference mode", Error);
  for (const PromptRows& prompt : {PromptRows{}, PromptRows{0, 3}})
    CHECK_THROWS_WITH_AS(
        read(tape, w, prompt),
        "[prompt_attention] q, latent and k_rope need one dense row per token of a prompt that fits"
        "\n  q: [1, 2, 5]\n  latent: [1, 2, 5]\n  k_rope: [1, 2, 2]\n  rows: [2]",
        ShapeError);
  CHECK_THROWS_WITH_AS(
      read(tape, weight(random_tensor<double>({8, 5}, 1)), {0, 0}),
      "[prompt_attention] w is [H * (nope + v), latent], the cache [sequences, capacity, latent + rope]"
      "\n  w: [8, 5]\n  cache: [1, 4, 7]\n  latent: [1, 2, 5]",
      ShapeError);
  const Tape::Scope scope(tape, "self_attn");
  CHECK_THROWS_WITH_AS(
      run(tape, weight(random_tensor<double>({8, 5}, 1)), rows),
      "[latent_attention] w is [H * (nope + v), latent], the cache [sequences, capacity, latent + rope]"
      "\n  w: [8, 5]\n  cache: [1, 4, 7]\n  latent: [1, 2, 5]\n  in self_attn",
      ShapeError);
}

TEST_CASE_TEMPLATE("latent_attention: a branch of a tree has the bits of a sequence without branches", T,
                   float, double, bf16) {
  const AttentionShape s{1, 1, 3, 4, 2, 5};
  // Branches that begin before, at and behind the ends of tiles and parts.
  for (const Index first : {0, 3, 62, 63, 125, 127, 128, 200}) {
    CAPTURE(first);
    const auto entries = random_tensor<T>({1, first + 16, latent + s.rope}, 5);
    const auto row = [&](Index width, std::uint64_t stream, std::uint64_t branch, Index d) {
      return random_tensor<T>({1, 1, width}, 100 * stream + 10 * branch + static_cast<std::uint64_t>(d))
          .to_host();
    };
    const Weight<T, Device> w(random_tensor<T>({s.heads * (s.nope + s.v), latent}, 4));
    const auto run = [&](const std::vector<std::pair<std::uint64_t, Index>>& nodes,
                         const DecodeRows<Device>& rows, const LatentCache<T, Device>& cache) {
      const auto n = static_cast<Index>(nodes.size());
      const auto all = [&](Index width, std::uint64_t stream) {
        std::vector<T> values;
        for (const auto& [branch, d] : nodes) {
          const std::vector<T> one = row(width, stream, branch, d);
          values.insert(values.end(), one.begin(), one.end());
        }
        return tensor<T>({1, n, width}, values);
      };
      Tape tape(Mode::inference);
      return host(latent_attention(tape.constant(all(s.heads * (s.nope + s.rope), 1)),
                                   tape.constant(all(latent, 2)), tape.constant(all(s.rope, 3)), w, s,
                                   static_cast<acc_t<T>>(factor), rows, cache)
                      .value());
    };
    const auto integers = [](const std::vector<Index>& values) {
      return tensor<std::int32_t>({static_cast<Index>(values.size())},
                                  std::vector<std::int32_t>(values.begin(), values.end()));
    };
    const auto copy_of = [&] {
      return LatentCache<T, Device>{tensor<T>(entries.shape(), entries.to_host())};
    };
    // Two branches of three rows in one pass, their entries in any order behind the sequence.
    std::vector<std::pair<std::uint64_t, Index>> nodes;
    std::vector<Index> positions, places;
    std::vector<std::int32_t> paths;
    const Index place[2][3] = {{first + 9, first + 2, first + 5}, {first + 1, first, first + 7}};
    for (Index d = 0; d < 3; ++d) {
      for (const std::uint64_t branch : {0U, 1U}) {
        nodes.emplace_back(branch, d);
        positions.push_back(first + d);
        places.push_back(place[branch][d]);
        paths.push_back(static_cast<std::int32_t>(first));
        for (Index i = 0; i < 3; ++i)
          paths.push_back(i <= d ? static_cast<std::int32_t>(place[branch][i]) : 1 << 30);
      }
    }
    const DecodeRows<Device> in_tree{integers(std::vector<Index>(6, 0)), integers(positions),
                                     integers(places), tensor<std::int32_t>({6, 4}, paths)};
    const Numbers got = run(nodes, in_tree, copy_of());
    for (const std::uint64_t branch : {0U, 1U}) {
      const LatentCache<T, Device> alone = copy_of();
      const DecodeRows<Device> rows{integers({0, 0, 0}), integers({first, first + 1, first + 2})};
      const Numbers want = run({{branch, 0}, {branch, 1}, {branch, 2}}, rows, alone);
      const std::size_t width = want.size() / 3;
      for (std::size_t i = 0; i < want.size(); ++i)
        CHECK(got[(2 * (i / width) + branch) * width + i % width] == want[i]);
    }
  }
}

TEST_SUITE_END();
