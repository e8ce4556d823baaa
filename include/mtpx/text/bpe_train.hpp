#pragma once
// Learns the merges of a tokenizer from text.

#include <mtpx/core/cpu.hpp>
#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/text/bpe.hpp>
#include <mtpx/text/byte_letters.hpp>
#include <mtpx/text/split.hpp>
#include <mtpx/text/tokenizer.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// What train_bpe() makes.
struct BpeOptions {
  Index vocab_size = 4096;                ///< tokens at most: special ones, 256 bytes, one for each merge
  Index min_frequency = 2;                ///< a pair that is seen less often is not merged
  std::vector<std::string> special = {};  ///< special tokens, which get the first ids
};

namespace detail {

/// How often pieces were seen: each distinct one once, whatever the text's size.
class PieceCounts {
 public:
  struct Piece {
    std::uint64_t hash = 0;
    std::size_t begin = 0;
    std::uint32_t size = 0;
    std::int64_t count = 0;  // 0: the slot is free
  };

  void add(std::string_view piece, std::uint64_t hash, std::int64_t count) {
    if (2 * used_ >= slots_.size()) grow();
    Piece& slot = slots_[place(piece, hash)];
    if (slot.count == 0) {
      slot = {hash, bytes_.size(), static_cast<std::uint32_t>(piece.size()), 0};
      bytes_ += piece;
      ++used_;
    }
    slot.count += count;
  }
  void add(const PieceCounts& other) {
    for (const Piece& piece : other.slots_) {
      if (piece.count > 0) add(other.text(piece), piece.hash, piece.count);
    }
  }

  std::string_view text(const Piece& piece) const {
    return std::string_view(bytes_).substr(piece.begin, piece.size);
  }
  /// All pieces, sorted by their bytes: in the same order whoever counted what.
  std::vector<Piece> sorted() const {
    std::vector<Piece> pieces;
    pieces.reserve(used_);
    for (const Piece& piece : slots_) {
      if (piece.count > 0) pieces.push_back(piece);
    }
    std::sort(pieces.begin(), pieces.end(),
              [this](const Piece& a, const Piece& b) { return text(a) < text(b); });
    return pieces;
  }

 private:
  std::size_t place(std::string_view piece, std::uint64_t hash) const {
    std::size_t at = hash & (slots_.size() - 1);
    while (slots_[at].count != 0 && (slots_[at].hash != hash || text(slots_[at]) != piece))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  void grow() {
    std::vector<Piece> old(std::max<std::size_t>(1024, 2 * slots_.size()));
    old.swap(slots_);
    for (const Piece& piece : old) {
      if (piece.count > 0) slots_[place(text(piece), piece.hash)] = piece;
    }
  }

  std::vector<Piece> slots_;
  std::size_t used_ = 0;
  std::string bytes_;
};

}  // namespace detail

/// How often pieces of text were seen: what train_bpe() learns from. Documents may come one after the other:
/// memory is that of the distinct pieces, for each thread, not that of the text.
class BpeCounts {
 public:
  explicit BpeCounts(const Cpu& cpu = Cpu()) : cpu_(cpu), counts_(static_cast<std::size_t>(cpu.threads())) {}

  /// Counts the pieces of more documents, cut by `own_pattern`. Long ones are cut where that changes no
  /// piece, so that all threads have work.
  void add(std::span<const std::string_view> documents) {
    constexpr std::size_t part_size = std::size_t{1} << 20U;
    std::vector<std::string_view> parts;
    for (const std::string_view document : documents) {
      for (std::size_t at = 0; at < document.size();) {
        const std::size_t end =
            document.size() - at > part_size ? OwnPieces::cut(document, at + part_size) : document.size();
        parts.push_back(document.substr(at, end - at));
        at = end;
      }
    }
    const std::size_t tasks = counts_.size();
    cpu::parallel_tasks(cpu_, static_cast<Index>(tasks), [&](Index task) {
      const auto first = static_cast<std::size_t>(task);
      for (std::size_t i = first; i < parts.size(); i += tasks) {
        for (std::size_t at = 0; at < parts[i].size();) {
          const std::size_t end = OwnPieces::end(parts[i], at);
          const std::string_view piece = parts[i].substr(at, end - at);
          counts_[first].add(piece, detail::hash_bytes(piece), 1);
          at = end;
        }
      }
    });
  }

  /// All that was counted, which is then gone from here.
  detail::PieceCounts take() {
    for (std::size_t i = 1; i < counts_.size(); ++i) {
      counts_[0].add(counts_[i]);
      counts_[i] = {};
    }
    return std::exchange(counts_[0], {});
  }

 private:
  Cpu cpu_;
  std::vector<detail::PieceCounts> counts_;  // a thread's each
};

namespace detail {

/// The loop of Hugging Face's BpeTrainer, entry by entry of its queue: counts go down late, and an entry
/// knows the words in which its pair was made. So the merges are the same, in odd cases, too.
class BpeTrainer {
 public:
  BpeTrainer(const PieceCounts& counts, const BpeOptions& options, const Cpu& cpu)
      : options_(options), cpu_(cpu) {
    add_first_tokens();
    for (const PieceCounts::Piece& piece : counts.sorted()) {
      if (piece.size < 2) continue;  // nothing in it to merge
      words_.push_back({symbols_.size(), piece.size, piece.count});
      for (const char byte : counts.text(piece)) symbols_.push_back(bytes_[static_cast<unsigned char>(byte)]);
    }
  }

  TokenizerParts train() {
    for (std::uint32_t w = 0; w < words_.size(); ++w) {
      const Word& word = words_[w];
      for (std::size_t i = word.begin; i + 1 < word.begin + word.size; ++i)
        change({pair_key({symbols_[i], symbols_[i + 1]}), 1, w});
    }
    queue_changed();
    while (static_cast<Index>(tokens_.size()) < options_.vocab_size && !queue_.empty()) {
      std::pop_heap(queue_.begin(), queue_.end(), later);
      Entry top = std::move(queue_.back());
      queue_.pop_back();
      if (const std::int64_t now = counts_[top.pair]; now != top.count) {
        top.count = now;
        push(std::move(top));
        continue;
      }
      if (top.count < std::max<Index>(1, options_.min_frequency)) break;
      merge(top);
    }
    TokenizerParts parts;
    parts.tokens = std::move(tokens_);
    parts.others = std::move(others_);
    parts.merges = std::move(merges_);
    parts.added = std::move(added_);
    Split split;
    split.pattern = own_pattern;
    split.find = OwnPieces::find;
    parts.splits.push_back(std::move(split));
    return parts;
  }

 private:
  struct Word {
    std::size_t begin;  // its first symbol
    std::uint32_t size;
    std::int64_t count;
  };
  /// A pair of neighbours more or less in a word.
  struct Change {
    std::uint64_t pair;
    std::int64_t by;
    std::uint32_t word;
  };
  struct Entry {
    std::int64_t count;
    std::uint64_t key;
    std::size_t pair;      // its place in counts_
    std::uint64_t number;  // of the entry: the older first, if all else is equal
    std::vector<std::uint32_t> words;
  };
  /// The order of the queue: the highest count, then the smallest pair of ids.
  static bool later(const Entry& a, const Entry& b) {
    if (a.count != b.count) return a.count < b.count;
    if (a.key != b.key) return a.key > b.key;
    return a.number > b.number;
  }

  auto text_of() const {
    return [this](std::int32_t id) { return std::string_view(tokens_[static_cast<std::size_t>(id)]); };
  }

  void add_first_tokens() {
    for (const std::string& text : options_.special) {
      const auto id = static_cast<std::int32_t>(tokens_.size());
      added_.push_back({id, text, true, false});
      const std::optional<std::string> bytes =
          utf8_prefix(text) == text.size() ? from_letters(text) : std::nullopt;
      tokens_.push_back(bytes.value_or(""));
      if (!bytes) others_[id] = text;
    }
    std::array<unsigned char, 256> order{};
    std::iota(order.begin(), order.end(), static_cast<unsigned char>(0));
    std::sort(order.begin(), order.end(),
              [](unsigned char a, unsigned char b) { return byte_letters[a] < byte_letters[b]; });
    for (const unsigned char byte : order) {
      bytes_[byte] = static_cast<std::int32_t>(tokens_.size());
      tokens_.emplace_back(1, static_cast<char>(byte));
    }
    const auto room = static_cast<std::size_t>(std::max<Index>(options_.vocab_size, 0));
    table_ = TokenTable(room);
    for (std::size_t id = 0; id < tokens_.size(); ++id) {
      if (!tokens_[id].empty()) table_.insert(static_cast<std::int32_t>(id), text_of());
    }
  }

  void push(Entry entry) {
    queue_.push_back(std::move(entry));
    std::push_heap(queue_.begin(), queue_.end(), later);
  }

  void change(const Change& change) {
    const std::size_t pair = index(change.pair);
    counts_[pair] += change.by * words_[change.word].count;
    if (change.by < 0) return;
    std::vector<std::uint32_t>& words = made_[pair];
    if (words.empty()) changed_.push_back(pair);
    if (words.empty() || words.back() != change.word) words.push_back(change.word);
  }
  void queue_changed() {
    for (const std::size_t pair : changed_) {
      std::vector<std::uint32_t> words = std::move(made_[pair]);
      made_[pair] = {};
      if (counts_[pair] > 0) push({counts_[pair], keys_[pair], pair, number_++, std::move(words)});
    }
    changed_.clear();
  }

  void merge(const Entry& top) {
    const Merge pair{static_cast<std::int32_t>(top.key >> 32U),
                     static_cast<std::int32_t>(top.key & 0xffffffffU)};
    std::string text = cat(text_of()(pair.left), text_of()(pair.right));
    std::int32_t merged = table_.find(text, text_of());  // another pair may have made it before
    if (merged < 0) {
      merged = static_cast<std::int32_t>(tokens_.size());
      tokens_.push_back(std::move(text));
      table_.insert(merged, text_of());
    }
    merges_.push_back(pair);

    constexpr std::size_t part = 4096;  // words that are worth a thread
    const std::size_t parts = (top.words.size() + part - 1) / part;
    if (found_.size() < parts) found_.resize(parts);
    const auto do_part = [&](std::size_t i) {
      found_[i].clear();
      const std::size_t end = std::min(top.words.size(), (i + 1) * part);
      for (std::size_t w = i * part; w < end; ++w) merge_word(top.words[w], pair, merged, found_[i]);
    };
    if (parts > 1) {
      cpu::parallel_tasks(cpu_, static_cast<Index>(parts),
                          [&](Index i) { do_part(static_cast<std::size_t>(i)); });
    } else {
      do_part(0);
    }
    for (std::size_t i = 0; i < parts; ++i) {
      for (const Change& found : found_[i]) change(found);
    }
    queue_changed();
  }

  /// Merges the pair in a word, from the left, and notes which neighbours that makes and parts.
  void merge_word(std::uint32_t w, Merge pair, std::int32_t merged, std::vector<Change>& found) {
    Word& word = words_[w];
    std::int32_t* const symbols = symbols_.data() + word.begin;
    std::uint32_t to = 0;
    for (std::uint32_t from = 0; from < word.size; ++from, ++to) {
      if (symbols[from] != pair.left || from + 1 == word.size || symbols[from + 1] != pair.right) {
        symbols[to] = symbols[from];
        continue;
      }
      if (to > 0) {
        found.push_back({pair_key({symbols[to - 1], pair.left}), -1, w});
        found.push_back({pair_key({symbols[to - 1], merged}), 1, w});
      }
      ++from;
      if (from + 1 < word.size) {
        found.push_back({pair_key({pair.right, symbols[from + 1]}), -1, w});
        found.push_back({pair_key({merged, symbols[from + 1]}), 1, w});
      }
      symbols[to] = merged;
    }
    word.size = to;
  }

  /// The place of a pair in counts_, keys_ and made_.
  std::size_t index(std::uint64_t key) {
    if (2 * keys_.size() >= slots_.size()) grow();
    std::size_t at = mix_bits(key) & (slots_.size() - 1);
    while (slots_[at] != 0 && keys_[slots_[at] - 1] != key) at = (at + 1) & (slots_.size() - 1);
    if (slots_[at] == 0) {
      keys_.push_back(key);
      counts_.push_back(0);
      made_.emplace_back();
      slots_[at] = static_cast<std::uint32_t>(keys_.size());
    }
    return slots_[at] - 1;
  }
  void grow() {
    slots_.assign(std::max<std::size_t>(1U << 16U, 2 * slots_.size()), 0);
    for (std::size_t pair = 0; pair < keys_.size(); ++pair) {
      std::size_t at = mix_bits(keys_[pair]) & (slots_.size() - 1);
      while (slots_[at] != 0) at = (at + 1) & (slots_.size() - 1);
      slots_[at] = static_cast<std::uint32_t>(pair + 1);
    }
  }

  const BpeOptions& options_;
  const Cpu& cpu_;
  std::array<std::int32_t, 256> bytes_{};
  std::vector<std::string> tokens_;
  std::map<std::int32_t, std::string> others_;
  std::vector<AddedToken> added_;
  std::vector<Merge> merges_;
  TokenTable table_;
  std::vector<Word> words_;
  std::vector<std::int32_t> symbols_;  // of all words
  std::vector<std::uint32_t> slots_;   // the table from pairs to their places, plus one
  std::vector<std::uint64_t> keys_;
  std::vector<std::int64_t> counts_;
  std::vector<std::vector<std::uint32_t>> made_;  // words where a pair was made since the queue last saw it
  std::vector<std::size_t> changed_;              // pairs with such words
  std::vector<std::vector<Change>> found_;
  std::vector<Entry> queue_;
  std::uint64_t number_ = 0;
};

/// Throws ConfigError for options of which no tokenizer is made.
inline void check_bpe_options(const BpeOptions& options) {
  const auto first = static_cast<Index>(256 + options.special.size());
  const auto require = [](bool holds, const auto&... rule) {
    if (!holds) throw ConfigError(cat("[train_bpe] ", rule...));
  };
  require(options.vocab_size >= first && options.vocab_size <= most_tokens,
          "vocab_size = ", options.vocab_size, ": must be ", first, " (bytes and special tokens) ... ",
          most_tokens);
  for (std::size_t i = 0; i < options.special.size(); ++i) {
    const std::string& text = options.special[i];
    require(!text.empty() && Utf8Stream::valid(text), "special[", i, "] must be UTF-8 and not empty");
    require(std::find(options.special.begin(), options.special.begin() + static_cast<std::ptrdiff_t>(i),
                      text) == options.special.begin() + static_cast<std::ptrdiff_t>(i),
            "special[", i, "] stands twice");
  }
}

}  // namespace detail

/// Learns byte-level BPE (Sennrich, Haddow & Birch 2016, algorithm 1) from what was counted, and takes it.
///
/// Ids: special tokens, the 256 bytes in the order of their letters, merges in theirs. The most frequent pair
/// of neighbours is merged next, among equals the one with the smallest ids: the merges that Hugging Face's
/// BpeTrainer makes of the same pieces. They do not depend on the number of threads, nor on the order of
/// documents. Training ends early when no pair is left that was seen min_frequency times. Throws ConfigError:
/// a vocabulary too small for bytes and special tokens, a special token that is empty, stands twice or is no
/// UTF-8.
inline Tokenizer train_bpe(BpeCounts counts, const BpeOptions& options = {}, const Cpu& cpu = Cpu()) {
  detail::check_bpe_options(options);
  return Tokenizer(detail::BpeTrainer(counts.take(), options, cpu).train());
}

/// The same from documents.
inline Tokenizer train_bpe(std::span<const std::string_view> documents, const BpeOptions& options = {},
                           const Cpu& cpu = Cpu()) {
  detail::check_bpe_options(options);
  BpeCounts counts(cpu);
  counts.add(documents);
  return train_bpe(std::move(counts), options, cpu);
}

}  // namespace mtpx
