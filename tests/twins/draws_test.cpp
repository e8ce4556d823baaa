// Weights drawn on a GPU and on the host; tokens drawn on a GPU against those that the host's distribution
// gives; races won there and here, and drafts settled.

#include "twins/twins.hpp"

using namespace mtpx;
using namespace mtpx::test;

namespace {

/// Races of every row of logits [rows, width] for some places, row r as by(r) says: the host's winners, and
/// its lists.
template <typename A, typename By>
void check_races(Index rows, Index width, const std::vector<A>& logits, const By& by) {
  CAPTURE(width);
  for (std::uint64_t place = 0; place < 5; ++place) {
    std::vector<Draw> draws;
    for (Index r = 0; r < rows; ++r) draws.push_back({by(r), 0, {static_cast<std::uint64_t>(r), place}});
    const auto ids = [&]<typename D>(const D& on, Index best) {
      const auto x = Tensor<A, D>::from(on, {rows, width}, logits);
      const auto d = Tensor<Draw, D>::from(on, {rows}, draws);
      const Tensor<std::int32_t, D> to(on, {rows, best});
      poison(to);
      race_rows(on, x.rows(), x.data(), d.data(), best, to.data());
      return to.to_host();
    };
    for (const Index best : {1, 3}) CHECK(ids(device<Cuda>(), best) == ids(device<Cpu>(), best));
  }
}

/// Draws of every row of logits [rows, width], row r as by(r) says: with the smallest number, the largest,
/// and some between. Races, too.
template <typename A, typename By>
void check_draws(Index rows, Index width, const std::vector<A>& logits, const By& by) {
  CAPTURE(width);
  check_races(rows, width, logits, by);
  std::vector<Draw> draws;
  for (Index r = 0; r < rows; ++r)
    draws.push_back({by(r), Philox::uniform(3, 4, static_cast<std::uint64_t>(r))});
  draws[0].number = 0;
  draws[1].number = 1 - 0x1p-53;
  const auto& on = device<Cuda>();
  const auto x = Tensor<A, Cuda>::from(on, {rows, width}, logits);
  const auto on_device = Tensor<Draw, Cuda>::from(on, {rows}, draws);
  const Tensor<std::int32_t, Cuda> ids(on, {rows});
  poison(ids);
  draw_rows(on, x.rows(), x.data(), on_device.data(), ids.data(), {});
  const std::vector<std::int32_t> got = ids.to_host();
  // What they were drawn from, kept: the rows upside down.
  std::vector<std::int32_t> places;
  for (Index r = 0; r < rows; ++r) places.push_back(static_cast<std::int32_t>(rows - 1 - r));
  const Tensor<double, Cuda> table(on, {rows, width});
  poison(table);
  const auto kept_rows = Tensor<std::int32_t, Cuda>::from(on, {rows}, places);
  draw_rows(on, x.rows(), x.data(), on_device.data(), ids.data(), {table.data(), kept_rows.data()});
  CHECK(ids.to_host() == got);
  const Numbers kept = host(table);
  for (Index r = 0; r < rows; ++r) {
    const std::span<const A> row(logits.data() + r * width, static_cast<std::size_t>(width));
    const Draw& draw = draws[static_cast<std::size_t>(r)];
    CAPTURE(draw.sampling.temperature);
    CAPTURE(draw.sampling.top_k);
    CAPTURE(draw.sampling.top_p);
    const std::vector<double> p = distribution(row, draw.sampling);
    const auto at = static_cast<std::size_t>(r);
    const auto mine = kept.begin() + (rows - 1 - r) * width;
    const std::int32_t likeliest = argmax(row);
    if (token_or_not(likeliest, row[static_cast<std::size_t>(likeliest)]) < 0) {  // minus infinity alone
      CHECK(got[at] == ~likeliest);
      CHECK(std::all_of(mine, mine + width, [](double share) { return std::isnan(share); }));
      continue;
    }
    // The host adds V numbers one by one: at most V 2^-53 off.
    check_close(Numbers(mine, mine + width), p, static_cast<double>(width + 8) * 0x1p-53, "kept");
    if (r == 1) {  // at the very end roundings of the sums decide, but never for a token that was cut
      CHECK(p[static_cast<std::size_t>(got[at])] > 0);
    } else {
      CHECK(got[at] == sample(p, draw.number));
    }
  }
}

/// Rounds of 0 to 4 drafts over a vocabulary, by every rule, drawn and chosen, on both devices.
void check_rounds(Index vocab, Index sequences) {
  CAPTURE(vocab);
  constexpr Index most = 4;
  std::uint64_t next = 0;
  const auto uniform = [&] { return Philox::uniform(11, 12, next++); };
  for (const double apart : {0.05, 1.0}) {  // drafts that mostly stand, and that mostly fall
    Numbers table;
    RoundList drawn(most), chosen(most);
    const auto rows = [&] { return static_cast<Index>(table.size()) / vocab; };
    const auto add = [&](const Numbers& logits) {
      const Numbers p = distribution(std::span<const double>(logits), {1.0, vocab > 20 ? vocab / 2 : 0, 1.0});
      table.insert(table.end(), p.begin(), p.end());
      return p;
    };
    for (Index s = 0; s < sequences; ++s) {
      const Index count = s % (most + 1);
      std::vector<std::int32_t> drafts;
      std::vector<Numbers> main;
      for (Index i = 0; i <= count; ++i) {
        Numbers z;
        for (Index x = 0; x < vocab; ++x) z.push_back(6 * uniform());
        main.push_back(z);
      }
      const Index p_row = rows();
      for (const Numbers& z : main) add(z);
      const Index q_row = rows();
      for (Index i = 0; i < count; ++i) {
        Numbers z = main[static_cast<std::size_t>(i)];
        for (double& x : z) x += apart * uniform();
        const auto row = add(z);
        drafts.push_back(sample(row, uniform()));
      }
      Numbers keeps, draws;
      for (Index i = 0; i < count; ++i) keeps.push_back(uniform());
      for (Index i = 0; i <= count; ++i) draws.push_back(uniform());
      const auto keep = [&](std::size_t i) { return keeps[i]; };
      const auto draw = [&](std::size_t i) { return draws[i]; };
      drawn.add(drafts, p_row, q_row, keep, draw);
      chosen.add(drafts, p_row, -1, keep, draw);
    }
    for (const RoundList* list : {&drawn, &chosen}) {
      for (const Verification by : {Verification::exact, Verification::block, Verification::lossy_typical}) {
        const auto verdicts = [&]<typename D>(const D& on) {
          const RoundLayout& layout = list->layout();
          const auto i = Tensor<std::int32_t, D>::from(on, {sequences, layout.integers()}, list->integers());
          const auto n = Tensor<double, D>::from(on, {sequences, layout.numbers()}, list->numbers());
          const auto t = Tensor<double, D>::from(on, {rows(), vocab}, table);
          const Tensor<Verdict, D> to(on, {sequences});
          poison(to);
          verify_rounds(on, VerifyRule{by}, {layout, sequences, vocab, i.data(), n.data(), t.data()},
                        to.data());
          return to.to_host();
        };
        INFO("rule " << static_cast<int>(by) << ", chosen " << (list == &chosen) << ", apart " << apart);
        CHECK(verdicts(device<Cuda>()) == verdicts(device<Cpu>()));
      }
    }
  }
}

/// Logits [rows, width], all different.
std::vector<float> smooth(Index rows, Index width) {
  std::vector<float> values;
  for (const double x : host(random_tensor<float, Cpu>({rows, width}, 1, 3)))
    values.push_back(static_cast<float>(x));
  return values;
}

/// Logits [rows, width] of nine different values, and one of -inf.
std::vector<float> coarse(Index rows, Index width) {
  std::vector<float> values;
  for (const std::int32_t level : random_ids<Cpu>({rows, width}, 2, 0, 9).to_host())
    values.push_back(static_cast<float>(level - 4) / 2);
  values[0] = -std::numeric_limits<float>::infinity();
  return values;
}

/// What draw_normals leaves in `count` places from the `skip`-th on, and around them.
template <typename T, typename D>
Numbers drawn_normals(Index count, Index skip) {
  const auto& on = device<D>();
  const Tensor<T, D> y(on, {count + skip + 3});
  fill_value(on, y.size(), T(-7.0F), y.data());
  draw_normals(on, count, 5, 6, 0.02, y.data() + skip);
  return host(y);
}

template <typename T>
void check_normals() {
  for (const Index count : {1, 3, 4, 5, 1023, 2048, 2051, 300001}) {
    for (const Index skip : {0, 1, 2, 4}) {
      INFO("count " << count << ", skip " << skip);
      check_close(drawn_normals<T, Cuda>(count, skip), drawn_normals<T, Cpu>(count, skip),
                  no_difference<T>());
    }
  }
}

}  // namespace

TEST_CASE("twins: normal numbers" * doctest::test_suite("twins: model")) {
  check_normals<float>();
  check_normals<double>();
  check_normals<bf16>();
}

TEST_CASE("twins: tokens drawn, each way once" * doctest::test_suite("twins: decoding")) {
  for (const Index top_k : {0, 5}) {
    for (const double top_p : {1.0, 0.9}) {
      const auto by = [&](Index) { return SamplingOptions{0.8, top_k, top_p}; };
      check_draws(3, 1300, smooth(3, 1300), by);
      check_draws(3, 1300, coarse(3, 1300), by);
    }
  }
}

TEST_CASE("twins: rounds of drafts, each rule once" * doctest::test_suite("twins: decoding")) {
  check_rounds(1300, 5);
}

TEST_SUITE_BEGIN("twins: text");

TEST_CASE("twins: rounds of drafts, settled on the device as on the host") {
  for (const Index vocab : {2, 40, 1000, 4103}) check_rounds(vocab, 200);
}

TEST_CASE("twins: tokens drawn on the device are those that the host draws, with ties, NaN and both cuts") {
  constexpr Index rows = 16;
  for (const Index width : {1, 7, 1000, 4103, 40000}) {
    const std::vector<float> different = smooth(rows, width), ties = coarse(rows, width);
    for (const double temperature : {0.0, 0.1, 0.8, 3.0}) {
      for (const Index top_k : {0, 1, 5, 300}) {
        for (const double top_p : {1.0, 0.93, 0.31}) {
          if (width == 40000 && (temperature != 0.8 || top_k == 1)) continue;
          const auto by = [&](Index) { return SamplingOptions{temperature, top_k, top_p}; };
          check_draws(rows, width, different, by);
          check_draws(rows, width, ties, by);
          if (width == 1000)
            check_draws(rows, width, std::vector<double>(different.begin(), different.end()), by);
        }
      }
    }
    // Each row its own way, greedy ones among them.
    const auto each = [](Index r) {
      return SamplingOptions{r % 3 == 0 ? 0.0 : 0.4 * static_cast<double>(r), r % 4 == 1 ? 5 : 0,
                             r % 5 == 2 ? 0.9 : 1.0};
    };
    check_draws(rows, width, different, each);
    check_draws(rows, width, ties, each);
  }
  // What is not a number is never drawn.
  std::vector<float> broken(rows * 50, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t r = 1; r < rows; ++r) broken[50 * r + 17] = broken[50 * r + 33] = 1;
  const auto x = Tensor<float, Cuda>::from(device<Cuda>(), {rows, 50}, broken);
  const auto draws =
      Tensor<Draw, Cuda>::from(device<Cuda>(), {rows}, std::vector<Draw>(rows, {{0.5, 3, 0.9}, 0.75}));
  const Tensor<std::int32_t, Cuda> ids(device<Cuda>(), {rows});
  draw_rows(device<Cuda>(), x.rows(), x.data(), draws.data(), ids.data(), {});
  std::vector<std::int32_t> second(rows, 33);
  second[0] = ~0;  // of NaN alone
  CHECK(ids.to_host() == second);
  check_races(rows, 50, broken, [](Index r) {
    return r % 2 == 0 ? SamplingOptions{0.5} : SamplingOptions{0.5, 3, 0.9};
  });
}

TEST_SUITE_END();
