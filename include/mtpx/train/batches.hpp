#pragma once
// Windows of tokens for training and validation, found from the step number alone.

#include <mtpx/core/error.hpp>
#include <mtpx/core/rng.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/train/tokens.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace mtpx {

/// `batch` windows of `seq` inputs and one token more, on the host.
///
/// In row b, token i is the input at i, and the target of depth k at i is token i + k + 1 (k = 0: the main
/// model). Windows run across documents, so a target counts only if it is in the input's document:
///
///   valid  <=>  positions[b, i + k + 1] == positions[b, i] + k + 1
///
/// This is exact: behind a document's start, positions are smaller than their distance to anything before it.
///
/// A program may put its own together: a window a row, or a sample padded to the longest, whose counts say
/// which of its tokens are learnt.
struct HostBatch {
  Index batch = 0, seq = 0;          ///< rows, and inputs in each
  std::vector<std::int32_t> tokens;  ///< [batch, seq + 1]  ids
  /// [batch, seq + 1]  offset of each token in its own document; empty: a document a row
  std::vector<std::int32_t> positions;
  /// [batch, seq + 1]  0: nobody's label (prompts, padding); empty: all count
  std::vector<std::int32_t> counts{};

  /// Token i of a row.
  std::int32_t token(Index row, Index i) const { return tokens[at(row, i)]; }
  /// Its offset in its own document.
  std::int32_t position(Index row, Index i) const {
    return positions.empty() ? static_cast<std::int32_t>(i) : positions[at(row, i)];
  }

  /// Whether token i + ahead exists in the window, is in the same document as token i, and is to be learnt.
  bool is_label(Index row, Index i, Index ahead) const {
    return i + ahead <= seq && position(row, i + ahead) == position(row, i) + ahead &&
           (counts.empty() || counts[at(row, i + ahead)] != 0);
  }

  /// Throws ConfigError unless it has an id of the vocabulary, and a position and a count where there are
  /// any, for each token.
  void check(Index vocabulary) const {
    const auto tokens_wanted = static_cast<std::size_t>(batch * (seq + 1));
    const auto fits = [&](const std::vector<std::int32_t>& all) {
      return all.empty() || all.size() == tokens_wanted;
    };
    if (batch < 1 || seq < 1 || tokens.size() != tokens_wanted || !fits(positions) || !fits(counts)) {
      throw ConfigError(cat("[data] a batch of ", batch, " windows of ", seq, " + 1 tokens has ",
                            tokens.size(), " tokens, ", positions.size(), " positions and ", counts.size(),
                            " counts"));
    }
    for (const std::int32_t id : tokens) {
      if (id >= 0 && id < vocabulary) continue;
      throw ConfigError(cat("[data] a batch has the id ", id, ", outside the vocabulary of ", vocabulary));
    }
  }

 private:
  std::size_t at(Index row, Index i) const { return static_cast<std::size_t>(row * (seq + 1) + i); }
};

namespace detail {

/// An empty batch of the given sizes with room for every window.
inline HostBatch empty_batch(Index batch, Index seq) {
  HostBatch result;
  result.batch = batch;
  result.seq = seq;
  result.tokens.reserve(static_cast<std::size_t>(batch * (seq + 1)));
  result.positions.reserve(static_cast<std::size_t>(batch * (seq + 1)));
  return result;
}

/// Appends the seq + 1 tokens of the stream from `offset` on, and their positions. The end of the stream is
/// followed by its beginning, which is a document's start like any other.
inline void append_window(const Tokens& tokens, Index offset, HostBatch& batch) {
  for (Index left = batch.seq + 1; left > 0; offset = 0) {
    const Index end = std::min(tokens.size(), offset + left);
    left -= end - offset;
    const std::size_t known = batch.tokens.size();
    batch.tokens.resize(known + static_cast<std::size_t>(end - offset));
    tokens.read(offset, std::span(batch.tokens).subspan(known));
    for (Index document = tokens.document_at(offset); offset < end; ++document) {
      const Index start = tokens.start(document), stop = std::min(end, tokens.start(document + 1));
      for (; offset < stop; ++offset) batch.positions.push_back(static_cast<std::int32_t>(offset - start));
    }
  }
}

/// Throws ConfigError on sizes that make no sense.
inline void check_batch_sizes(Index batch, Index seq, Index depth) {
  if (batch < 1) throw ConfigError(cat("[data] batch must be at least 1, it is ", batch));
  if (depth < 0) throw ConfigError(cat("[data] depth must not be negative, it is ", depth));
  if (seq < 1) throw ConfigError(cat("[data] seq must be at least 1, it is ", seq));
  if (seq <= depth) {
    throw ConfigError(cat("[data] seq must be larger than depth, they are ", seq, " and ", depth));
  }
}

}  // namespace detail

/// A pseudo-random permutation of 0 ... count - 1 that is computed entry by entry: no table, no state.
///
/// A Feistel network on pairs of digits base `side`, about the root of count, with side^2 >= count. Each
/// round (l, r) -> (r, l + f(r) mod side) can be undone, so their composition permutes 0 ... side^2 - 1.
/// Entries that fall outside 0 ... count - 1 are mapped again until they fall inside (Black & Rogaway 2002,
/// "Ciphers with arbitrary finite domains"), which keeps it a permutation; at most once more on average.
class Permutation {
 public:
  /// seed, stream: as for Philox; uses the counters 0 ... rounds * side - 1.
  Permutation(Index count, std::uint64_t seed, std::uint64_t stream)
      : count_(count), side_(1), seed_(seed), stream_(stream) {
    side_ = std::max<Index>(static_cast<Index>(std::sqrt(static_cast<double>(count))), 1);
    while (side_ * side_ < count) ++side_;  // the root was rounded down
  }

  /// Where `index`, in 0 ... count - 1, goes.
  Index operator()(Index index) const {
    do {
      index = shuffle(index);
    } while (index >= count_);
    return index;
  }

 private:
  static constexpr Index rounds = 8;

  Index shuffle(Index index) const {
    Index left = index / side_, right = index % side_;
    for (Index round = 0; round < rounds; ++round) {
      const auto words = Philox::block(seed_, stream_, static_cast<std::uint64_t>(round * side_ + right));
      const Index sum = (left + static_cast<Index>(words[0]) % side_) % side_;
      left = right;
      right = sum;
    }
    return left * side_ + right;
  }

  Index count_, side_;
  std::uint64_t seed_, stream_;
};

/// How large batches are, and how they are shuffled.
struct BatchOptions {
  Index batch = 8;         ///< windows per micro-batch, B
  Index seq = 256;         ///< inputs per window, T
  std::uint64_t seed = 0;  ///< of the order of the windows
  Index depth = 0;  ///< of multi-token prediction; only to check that windows and text are long enough for it
};

/// Training batches without state: a step number gives the same batch in every run, so resuming needs nothing
/// but the step.
///
/// The documents form a ring. Epoch e cuts it into `windows_per_epoch()` windows of `seq` inputs, starting
/// at a random offset of its own, and takes them in a random order of its own. Within an epoch every token
/// is at most once an input and at most once the next-token target; at most seq - 1 tokens sit out. A batch
/// takes the next `batch` windows and runs over the end of an epoch into the next one, so small data never
/// stalls or drops a step.
class Batches {
 public:
  /// The fewest tokens that can be trained on.
  static Index minimum(Index seq, Index depth) { return seq + 1 + depth; }

  /// Keeps the tokens, which copies share.
  /// Throws ConfigError if batch < 1, seq < 1, depth < 0 or seq <= depth; FileError if there are fewer than
  /// `minimum(seq, depth)` tokens.
  Batches(Tokens tokens, const BatchOptions& options) : tokens_(std::move(tokens)), options_(options) {
    detail::check_batch_sizes(options.batch, options.seq, options.depth);
    const Index needed = minimum(options.seq, options.depth);
    if (tokens_.size() < needed) {
      throw FileError(cat("[data] the text needs at least ", needed, " tokens (seq ", options.seq,
                          " + 1 + depth ", options.depth, "), found ", tokens_.size()));
    }
  }

  /// The batch of a step or micro-batch, counted from 0. Throws ConfigError if `step` is negative.
  HostBatch at(Index step) const {
    if (step < 0) throw ConfigError(cat("[data] step must not be negative, it is ", step));
    HostBatch result = detail::empty_batch(options_.batch, options_.seq);
    for (Index row = 0; row < options_.batch; ++row) {
      detail::append_window(tokens_, window(step * options_.batch + row), result);
    }
    return result;
  }

  /// The same, as a BatchSource is asked.
  HostBatch operator()(Index step) const { return at(step); }

  /// Windows until every one was taken once.
  Index windows_per_epoch() const { return tokens_.size() / options_.seq; }
  /// What windows are cut from.
  const Tokens& tokens() const { return tokens_; }
  /// The options as they were given.
  const BatchOptions& options() const { return options_; }

 private:
  /// Offset in the stream of the n-th window of the run.
  Index window(Index n) const {
    const Index epoch = n / windows_per_epoch();
    const std::uint64_t stream = first_stream + static_cast<std::uint64_t>(epoch);
    const Permutation order(windows_per_epoch(), options_.seed, stream);
    const auto words = Philox::block(options_.seed, stream, ~std::uint64_t{0});
    const auto random = std::uint64_t{words[1]} << 32 | words[0];
    const auto phase = static_cast<Index>(random % static_cast<std::uint64_t>(tokens_.size()));
    return (phase + order(n % windows_per_epoch()) * options_.seq) % tokens_.size();
  }

  // Streams of the batches, one an epoch: far from those of any other use of the same seed ("data" in ASCII).
  static constexpr std::uint64_t first_stream = std::uint64_t{0x64617461} << 32;

  Tokens tokens_;
  BatchOptions options_;
};

/// Which windows are scored.
struct ValidationOptions {
  Index batch = 8;   ///< windows per batch, B
  Index seq = 256;   ///< inputs per window, T
  Index limit = 64;  ///< windows at most
  Index depth = 0;   ///< of multi-token prediction; only to check seq
};

/// The same windows at every validation: at most `limit`, evenly spread over the tokens, in their order. Each
/// window has seq inputs and starts where the one before it (chosen or not) made its last prediction, so no
/// token is a next-token target twice.
class ValidationWindows {
 public:
  /// Keeps the tokens, which copies share. Tokens too few for one window, or empty,
  /// is no error here: it gives `windows() == 0`, and the caller says that there is nothing to validate on.
  /// Throws ConfigError as Batches does, and if limit < 1.
  ValidationWindows(Tokens tokens, const ValidationOptions& options)
      : tokens_(std::move(tokens)), options_(options) {
    detail::check_batch_sizes(options.batch, options.seq, options.depth);
    if (options.limit < 1) throw ConfigError(cat("[data] limit must be at least 1, it is ", options.limit));
    available_ = std::max<Index>(tokens_.size() - 1, 0) / options.seq;
  }

  /// Windows in all batches together.
  Index windows() const { return std::min(available_, options_.limit); }
  /// Number of batches.
  Index size() const { return (windows() + options_.batch - 1) / options_.batch; }

  /// Batch `index` in 0 ... size() - 1; the last one may have fewer rows.
  /// Throws ConfigError if there is no such batch.
  HostBatch at(Index index) const {
    if (index < 0 || index >= size()) {
      throw ConfigError(cat("[data] validation has ", size(), " batches, there is no batch ", index));
    }
    const Index first = index * options_.batch;
    HostBatch result = detail::empty_batch(std::min(options_.batch, windows() - first), options_.seq);
    for (Index row = 0; row < result.batch; ++row) {
      const Index window = (first + row) * available_ / windows();
      detail::append_window(tokens_, window * options_.seq, result);
    }
    return result;
  }

  /// What windows are cut from.
  const Tokens& tokens() const { return tokens_; }

 private:
  Tokens tokens_;
  ValidationOptions options_;
  Index available_ = 0;
};

}  // namespace mtpx
