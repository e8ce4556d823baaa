#include <mtpx/train/batches.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

using mtpx::Batches;
using mtpx::BatchOptions;
using mtpx::Corpus;
using mtpx::HostBatch;
using mtpx::Index;
using mtpx::Permutation;
using mtpx::ValidationWindows;

namespace {

/// A corpus of one document of `count` bytes that follow no pattern.
Corpus noise(Index count) {
  std::string text;
  for (Index i = 0; i < count; ++i) {
    text += static_cast<char>(mtpx::Philox::block(7, 7, static_cast<std::uint64_t>(i))[0] & 0xff);
  }
  return Corpus::from_text(text);
}

/// Documents of the given lengths.
Corpus documents(const std::vector<Index>& lengths) {
  Corpus corpus;
  char letter = 'a';
  for (Index length : lengths) corpus.add(std::string(static_cast<std::size_t>(length), letter++), "d");
  return corpus;
}

bool same(const HostBatch& a, const HostBatch& b) {
  return a.batch == b.batch && a.seq == b.seq && a.tokens == b.tokens && a.positions == b.positions;
}

/// Start of each window of one epoch, read from the positions: the corpus must be one document.
std::vector<Index> starts_of_epoch(const Batches& batches, Index epoch) {
  const Index windows = batches.windows_per_epoch();
  std::vector<Index> starts;
  for (Index w = 0; w < windows; ++w) {
    const Index n = epoch * windows + w, batch = batches.options().batch;
    starts.push_back(batches.at(n / batch).position(n % batch, 0));
  }
  return starts;
}

}  // namespace

TEST_CASE("Permutation: every index goes to a place of its own") {
  for (Index count : {1, 2, 3, 4, 5, 8, 10, 99, 100, 101, 4096}) {
    const Permutation order(count, 1, 2);
    std::vector<int> hits(static_cast<std::size_t>(count), 0);
    for (Index i = 0; i < count; ++i) ++hits[static_cast<std::size_t>(order(i))];
    CHECK(hits == std::vector<int>(static_cast<std::size_t>(count), 1));
  }
  const Index large = Index{1} << 40;  // far too large for a table
  CHECK(Permutation(large, 1, 2)(12345) < large);
}

TEST_CASE("Permutation: each index goes everywhere equally often") {
  // Chi-square with (7 - 1)^2 = 36 degrees of freedom: mean 36, standard deviation 8.5, 0.1 % beyond 68.
  constexpr Index count = 7;
  constexpr int trials = 7000;
  std::vector<int> hits(count * count, 0);
  for (int trial = 0; trial < trials; ++trial) {
    const Permutation order(count, 5, static_cast<std::uint64_t>(trial));
    for (Index i = 0; i < count; ++i) ++hits[static_cast<std::size_t>(i * count + order(i))];
  }
  double chi_square = 0;
  const double expected = double{trials} / count;
  for (int n : hits) chi_square += (n - expected) * (n - expected) / expected;
  CHECK(chi_square < 68);
}

TEST_CASE("Batches: a step gives the same batch whenever and wherever it is asked for") {
  const Corpus corpus = noise(1000);
  const BatchOptions options{.batch = 3, .seq = 16, .seed = 9};
  const Batches batches(corpus, options), resumed(corpus, options);
  std::vector<HostBatch> forwards;
  for (Index step = 0; step < 50; ++step) forwards.push_back(batches.at(step));
  for (Index step = 50; step-- > 0;) CHECK(same(resumed.at(step), forwards[static_cast<std::size_t>(step)]));
  CHECK(forwards[0].tokens.size() == 3 * 17);
  CHECK(forwards[0].positions.size() == 3 * 17);
}

TEST_CASE("Batches: within an epoch every token is an input and a target at most once") {
  for (Index count : {1000, 992, 1007, 17, 18}) {
    const Batches batches(noise(count), {.batch = 4, .seq = 16, .seed = 3});
    CHECK(batches.windows_per_epoch() == count / 16);
    for (Index epoch = 0; epoch < 5; ++epoch) {
      std::vector<int> inputs(static_cast<std::size_t>(count), 0), targets = inputs;
      for (Index w = 0; w < batches.windows_per_epoch(); ++w) {
        const Index n = epoch * batches.windows_per_epoch() + w;
        const HostBatch batch = batches.at(n / 4);
        for (Index i = 0; i < 16; ++i) {
          ++inputs[static_cast<std::size_t>(batch.position(n % 4, i))];
          ++targets[static_cast<std::size_t>(batch.position(n % 4, i + 1))];
        }
      }
      for (const std::vector<int>& uses : {inputs, targets}) {
        CHECK(*std::max_element(uses.begin(), uses.end()) == 1);
        CHECK(std::accumulate(uses.begin(), uses.end(), Index{0}) == count / 16 * 16);
      }
    }
  }
}

TEST_CASE("Batches: epochs and seeds differ in order and in where windows begin") {
  const Corpus corpus = noise(1000);
  const Batches batches(corpus, {.batch = 4, .seq = 16, .seed = 0});
  const Batches other(corpus, {.batch = 4, .seq = 16, .seed = 1});
  const std::vector<Index> first = starts_of_epoch(batches, 0);
  const auto steps = [](const std::vector<Index>& starts) {  // the order, whatever the phase
    std::vector<Index> result;
    for (std::size_t w = 1; w < starts.size(); ++w) result.push_back((starts[w] - starts[0] + 2000) % 1000);
    return result;
  };
  const auto in_corpus_order = [](const std::vector<Index>& starts) {
    Index count = 0;
    for (std::size_t w = 1; w < starts.size(); ++w) count += starts[w] == (starts[w - 1] + 16) % 1000;
    return count;
  };
  CHECK(in_corpus_order(first) < 10);  // of 61; one is expected
  for (const std::vector<Index>& next : {starts_of_epoch(batches, 1), starts_of_epoch(batches, 2),
                                         starts_of_epoch(other, 0), starts_of_epoch(other, 1)}) {
    CHECK(steps(next) != steps(first));
    // Other windows, not only another order. (Phases are random: these seeds do not collide.)
    CHECK(*std::min_element(next.begin(), next.end()) != *std::min_element(first.begin(), first.end()));
  }
}

TEST_CASE("Batches: tokens and positions are those of the documents, packed in order") {
  Corpus corpus;
  for (const char* word : {"abcde", "X", "fgh", "ij"}) corpus.add(word, word);
  const std::string stream = "abcdeXfghij";
  const std::vector<std::int32_t> position{0, 1, 2, 3, 4, 0, 0, 1, 2, 0, 1};
  const Batches batches(corpus, {.batch = 1, .seq = 4, .seed = 0});
  std::vector<bool> seen(stream.size(), false);
  for (Index step = 0; step < 200; ++step) {
    const HostBatch batch = batches.at(step);
    std::size_t start = 0;  // no five neighbours of the ring are equal, so the window tells where it starts
    const auto fits = [&](std::size_t at) {
      for (std::size_t i = 0; i < 5; ++i) {
        if (batch.tokens[i] != stream[(at + i) % stream.size()]) return false;
      }
      return true;
    };
    while (start < stream.size() && !fits(start)) ++start;
    REQUIRE(start < stream.size());
    seen[start] = true;
    for (std::size_t i = 0; i < 5; ++i) CHECK(batch.positions[i] == position[(start + i) % stream.size()]);
  }
  CHECK(seen == std::vector<bool>(stream.size(), true));  // every phase occurs
}

TEST_CASE("HostBatch: is_label is true exactly when a target stays in its document (D11)") {
  // Letters name the document; the ring's end is a boundary too, so equal letters must also not be wrapped.
  const Batches batches(documents({7, 1, 1, 3, 12, 2}), {.batch = 2, .seq = 8, .seed = 4, .depth = 3});
  for (Index step = 0; step < 100; ++step) {
    const HostBatch batch = batches.at(step);
    for (Index row = 0; row < 2; ++row) {
      for (Index i = 0; i < 8; ++i) {
        for (Index ahead = 1; ahead <= 4; ++ahead) {
          const bool inside = i + ahead <= 8;
          CHECK(batch.is_label(row, i, ahead) ==
                (inside && batch.token(row, i) == batch.token(row, i + ahead)));
        }
      }
    }
  }
}

TEST_CASE("Batches: one document that wraps onto itself is a boundary") {
  const Batches batches(Corpus::from_text("abcdef"), {.batch = 1, .seq = 5, .seed = 0});
  bool wrapped = false;
  for (Index step = 0; step < 20; ++step) {
    const HostBatch batch = batches.at(step);
    for (Index i = 0; i < 5; ++i) {
      CHECK(batch.token(0, i) == 'a' + batch.position(0, i));
      const bool follows = batch.token(0, i + 1) == batch.token(0, i) + 1;
      CHECK(batch.is_label(0, i, 1) == follows);
      wrapped = wrapped || !follows;
    }
  }
  CHECK(wrapped);
}

TEST_CASE("Batches: documents of one byte leave no valid target (D10)") {
  const Batches batches(documents(std::vector<Index>(20, 1)), {.batch = 2, .seq = 4, .seed = 0});
  for (Index step = 0; step < 10; ++step) {
    const HostBatch batch = batches.at(step);
    CHECK(batch.positions == std::vector<std::int32_t>(10, 0));
    for (Index i = 0; i < 4; ++i) CHECK_FALSE(batch.is_label(0, i, 1));
  }
}

TEST_CASE("Batches: tiny data goes round and round, also with batches larger than an epoch (D6)") {
  const Batches batches(noise(10), {.batch = 64, .seq = 8, .seed = 0, .depth = 1});
  CHECK(batches.windows_per_epoch() == 1);
  for (Index step : {Index{0}, Index{1}, Index{1000}, Index{1} << 40}) {
    const HostBatch batch = batches.at(step);
    CHECK(batch.tokens.size() == 64 * 9);
    for (std::int32_t position : batch.positions) CHECK((position >= 0 && position < 10));
  }
}

TEST_CASE("Batches: a text that is too short is refused with both counts (D2)") {
  const BatchOptions options{.batch = 1, .seq = 256, .seed = 0, .depth = 2};
  CHECK_THROWS_WITH_AS(Batches(noise(258), options),
                       "[data] the text needs at least 259 tokens (seq 256 + 1 + depth 2), found 258",
                       mtpx::FileError);
  CHECK_THROWS_AS(Batches(Corpus(), options), mtpx::FileError);
  CHECK(Batches::minimum(256, 2) == 259);
  CHECK(Batches(noise(259), options).at(0).tokens.size() == 257);
}

TEST_CASE("Batches: sizes that make no sense are refused (D4)") {
  const Corpus corpus = noise(100);
  const auto make = [&](Index batch, Index seq, Index depth) {
    return Batches(corpus, {.batch = batch, .seq = seq, .seed = 0, .depth = depth});
  };
  CHECK_THROWS_WITH_AS(make(1, 4, 4), "[data] seq must be larger than depth, they are 4 and 4",
                       mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(make(0, 4, 1), "[data] batch must be at least 1, it is 0", mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(make(1, 0, 0), "[data] seq must be at least 1, it is 0", mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(make(1, 4, -1), "[data] depth must not be negative, it is -1", mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(make(1, 4, 1).at(-1), "[data] step must not be negative, it is -1", mtpx::ConfigError);
  CHECK(make(1, 4, 3).at(0).is_label(0, 0, 4) == true);  // depth = seq - 1 has one target a window
  CHECK(make(2, 1, 0).at(0).tokens.size() == 4);
}

TEST_CASE("ValidationWindows: in order, evenly spread, each token predicted at most once") {
  const Corpus corpus = noise(1000);  // (1000 - 1) / 16 = 62 windows
  const auto starts = [](const ValidationWindows& windows) {
    std::vector<Index> result;
    for (Index b = 0; b < windows.size(); ++b) {
      const HostBatch batch = windows.at(b);
      CHECK(batch.tokens.size() == static_cast<std::size_t>(batch.batch * 17));
      for (Index row = 0; row < batch.batch; ++row) {
        for (Index i = 0; i < 16; ++i) CHECK(batch.is_label(row, i, 1));  // never wraps
        result.push_back(batch.position(row, 0));
      }
    }
    return result;
  };
  const ValidationWindows all(corpus, {.batch = 8, .seq = 16, .limit = 1000});
  std::vector<Index> expected;
  for (Index w = 0; w < 62; ++w) expected.push_back(16 * w);
  CHECK(all.windows() == 62);
  CHECK(all.size() == 8);
  CHECK(all.at(7).batch == 6);
  CHECK(starts(all) == expected);
  CHECK(same(all.at(3), ValidationWindows(corpus, {.batch = 8, .seq = 16, .limit = 62}).at(3)));

  const ValidationWindows few(corpus, {.batch = 3, .seq = 16, .limit = 4});
  CHECK(starts(few) == std::vector<Index>{0, 16 * 15, 16 * 31, 16 * 46});
}

TEST_CASE("ValidationWindows: too little text gives no windows, bad sizes are refused (D3, D4)") {
  CHECK(ValidationWindows(Corpus(), {.batch = 2, .seq = 16}).windows() == 0);
  CHECK(ValidationWindows(Corpus(), {.batch = 2, .seq = 16}).size() == 0);
  CHECK(ValidationWindows(noise(16), {.batch = 2, .seq = 16}).size() == 0);
  CHECK(ValidationWindows(noise(17), {.batch = 2, .seq = 16}).size() == 1);
  CHECK_THROWS_WITH_AS(ValidationWindows(noise(17), {.batch = 2, .seq = 16}).at(1),
                       "[data] validation has 1 batches, there is no batch 1", mtpx::ConfigError);
  CHECK_THROWS_WITH_AS(ValidationWindows(noise(17), {.batch = 2, .seq = 16, .limit = 0}),
                       "[data] limit must be at least 1, it is 0", mtpx::ConfigError);
  CHECK_THROWS_AS(ValidationWindows(noise(17), {.batch = 2, .seq = 2, .depth = 2}), mtpx::ConfigError);
}

TEST_CASE("HostBatch: without positions each row is a document; counts take labels away") {
  HostBatch batch;
  batch.batch = 2;
  batch.seq = 3;
  batch.tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  batch.check(9);
  for (Index row = 0; row < 2; ++row) {
    for (Index i = 0; i < 3; ++i) {
      CHECK(batch.position(row, i) == i);
      CHECK(batch.is_label(row, i, 1));
    }
    CHECK_FALSE(batch.is_label(row, 2, 2));
  }
  batch.counts = {1, 1, 0, 1, 1, 1, 1, 0};
  CHECK_FALSE(batch.is_label(0, 1, 1));
  CHECK(batch.is_label(0, 1, 2));
  CHECK_FALSE(batch.is_label(1, 2, 1));
  CHECK_THROWS_WITH_AS(batch.check(8), "[data] a batch has the id 8, outside the vocabulary of 8",
                       mtpx::ConfigError);
}
