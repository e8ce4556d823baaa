#pragma once
// Byte pair encoding (Sennrich, Haddow & Birch 2016, algorithm 1) over bytes: from a piece of text to ids.

#include <mtpx/core/error.hpp>
#include <mtpx/core/shape.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

/// Ids are below this number: one from a file must not ask for all memory.
inline constexpr Index most_tokens = Index{1} << 20U;

/// Two tokens that become the token of their joined bytes.
struct Merge {
  std::int32_t left = 0;   ///< id of the first
  std::int32_t right = 0;  ///< id of the second
  bool operator==(const Merge&) const = default;
};

namespace detail {

inline std::uint64_t mix_bits(std::uint64_t x) {
  x *= 0x9e3779b97f4a7c15;
  return x ^ x >> 32U;
}

inline std::uint64_t hash_bytes(std::string_view text) {
  std::uint64_t hash = text.size(), word = 0;
  for (; text.size() >= sizeof(word); text.remove_prefix(sizeof(word))) {
    std::memcpy(&word, text.data(), sizeof(word));
    hash = mix_bits(hash ^ word);
  }
  word = 0;
  if (!text.empty()) std::memcpy(&word, text.data(), text.size());
  return mix_bits(mix_bits(hash ^ word));
}

inline std::uint64_t pair_key(Merge pair) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(pair.left)) << 32U |
         static_cast<std::uint32_t>(pair.right);
}

/// Slots of a table with open addressing for `count` entries: a power of two, at most half full.
inline std::size_t table_slots(std::size_t count) {
  std::size_t slots = 16;
  while (slots < 2 * count) slots *= 2;
  return slots;
}

/// From the bytes of tokens to their ids. Borrows the texts.
class TokenTable {
 public:
  explicit TokenTable(std::size_t count = 0) : slots_(table_slots(count), -1) {}

  /// The id of `text` or -1. `text_of(id)` gives the bytes of one that was inserted.
  template <typename TextOf>
  std::int32_t find(std::string_view text, const TextOf& text_of) const {
    return slots_[place(text, text_of)];
  }
  /// False if another token has these bytes.
  template <typename TextOf>
  bool insert(std::int32_t id, const TextOf& text_of) {
    std::int32_t& slot = slots_[place(text_of(id), text_of)];
    if (slot >= 0) return false;
    slot = id;
    return true;
  }

 private:
  template <typename TextOf>
  std::size_t place(std::string_view text, const TextOf& text_of) const {
    std::size_t at = hash_bytes(text) & (slots_.size() - 1);
    while (slots_[at] >= 0 && text_of(slots_[at]) != text) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::vector<std::int32_t> slots_;
};

/// From pairs of tokens to their rank and to what they become.
class MergeTable {
 public:
  static constexpr std::uint32_t none = std::numeric_limits<std::uint32_t>::max();
  struct Entry {
    std::uint64_t key = ~std::uint64_t{0};
    std::uint32_t rank = none;
    std::int32_t merged = -1;
  };

  explicit MergeTable(std::size_t count = 0) : slots_(table_slots(count)) {}

  /// The entry of a pair; its rank is `none` if there is no such merge.
  const Entry& find(Merge pair) const { return slots_[place(pair_key(pair))]; }

  /// A pair that stands twice has its last rank, as in Hugging Face's library.
  void set(Merge pair, std::uint32_t rank, std::int32_t merged) {
    slots_[place(pair_key(pair))] = {pair_key(pair), rank, merged};
  }

 private:
  std::size_t place(std::uint64_t key) const {
    std::size_t at = mix_bits(key) & (slots_.size() - 1);
    while (slots_[at].key != key && slots_[at].rank != none) at = (at + 1) & (slots_.size() - 1);
    return at;
  }
  std::vector<Entry> slots_;
};

/// The ids of short pieces that one thread has seen: natural text says the same words again and again.
class PieceCache {
 public:
  static constexpr std::size_t longest = 22, most_ids = 8;  // a slot is one cache line
  struct alignas(64) Slot {
    std::uint64_t hash = 0;
    std::uint8_t size = 0, count = 0;
    std::array<char, longest> bytes{};
    std::array<std::int32_t, most_ids> ids{};

    bool holds(std::string_view piece, std::uint64_t key) const {
      return hash == key && size == piece.size() && std::memcmp(bytes.data(), piece.data(), size) == 0;
    }
  };

  /// The place of a piece in this thread's cache for the tokenizer `owner`; another owner's pieces are
  /// dropped.
  static Slot& slot(std::uint64_t owner, std::uint64_t hash) {
    thread_local PieceCache cache;
    if (cache.owner_ != owner || cache.slots_.empty()) {
      cache.slots_.assign(std::size_t{1} << 14U, Slot{});
      cache.owner_ = owner;
    }
    return cache.slots_[hash & (cache.slots_.size() - 1)];
  }

 private:
  std::uint64_t owner_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace detail

/// Tokens with their bytes and the merges, in the order of their ranks. A piece of text begins as its bytes;
/// the pair of neighbours with the lowest rank, the leftmost of equals, becomes one token, until no pair is
/// left that merges. A heap over ranks finds it: n log n for a piece of n bytes.
class Bpe {
 public:
  /// tokens: bytes by id, an empty text is none   whole_first (`ignore_merges` in files): a piece that is a
  /// token is that token, whatever the merges say. Throws ConfigError: a byte without token, two tokens with
  /// the same bytes, a merge without its tokens.
  Bpe(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, bool whole_first)
      : whole_first_(whole_first), table_(tokens.size()), merges_(merges.size()) {
    const auto text_of = [&](std::int32_t id) {
      return std::string_view(tokens[static_cast<std::size_t>(id)]);
    };
    const auto require = [](bool holds, const auto&... rule) {
      if (!holds) throw ConfigError(cat("[tokenizer] ", rule...));
    };
    ends_.reserve(tokens.size());
    for (std::size_t id = 0; id < tokens.size(); ++id) {
      require(tokens[id].empty() || table_.insert(static_cast<std::int32_t>(id), text_of), "token ", id,
              " has the bytes of another");
      arena_ += tokens[id];
      ends_.push_back(arena_.size());
    }
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const char text = static_cast<char>(byte);
      bytes_[byte] = table_.find({&text, 1}, text_of);
      require(bytes_[byte] >= 0, "no token is the byte ", byte);
    }
    const auto known = [&](std::int32_t id) {
      return id >= 0 && static_cast<std::size_t>(id) < tokens.size() && !text_of(id).empty();
    };
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const Merge pair = merges[rank];
      require(known(pair.left) && known(pair.right), "merge ", rank, " has a token that is none");
      const std::int32_t merged =
          table_.find(std::string(text_of(pair.left)).append(text_of(pair.right)), text_of);
      require(merged >= 0, "merge ", rank, " makes no token");
      merges_.set(pair, static_cast<std::uint32_t>(rank), merged);
    }
  }

  /// Ids are 0 ... size() - 1; some may have no bytes.
  Index size() const { return static_cast<Index>(ends_.size()); }

  /// The bytes of a token below size().
  std::string_view text(std::int32_t id) const {
    const auto i = static_cast<std::size_t>(id);
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return std::string_view(arena_).substr(begin, ends_[i] - begin);
  }

  /// The token that is this byte alone.
  std::int32_t byte(unsigned char value) const { return bytes_[value]; }

  /// Appends the ids of `piece` to `out`. `owner` names this tokenizer among all that the thread works with.
  void encode(std::string_view piece, std::uint64_t owner, std::vector<std::int32_t>& out) const {
    using detail::PieceCache;
    if (piece.size() == 1) {
      out.push_back(bytes_[static_cast<unsigned char>(piece[0])]);
      return;
    }
    if (piece.size() > PieceCache::longest) {
      merge(piece, out);
      return;
    }
    const std::uint64_t hash = detail::hash_bytes(piece);
    PieceCache::Slot& slot = PieceCache::slot(owner, hash);
    if (slot.holds(piece, hash)) {
      out.insert(out.end(), slot.ids.begin(), slot.ids.begin() + slot.count);
      return;
    }
    const std::size_t begin = out.size();
    merge(piece, out);
    const std::size_t count = out.size() - begin;
    if (count > PieceCache::most_ids || piece.empty()) return;
    slot.hash = hash;
    slot.size = static_cast<std::uint8_t>(piece.size());
    slot.count = static_cast<std::uint8_t>(count);
    std::memcpy(slot.bytes.data(), piece.data(), piece.size());
    std::copy_n(out.begin() + static_cast<std::ptrdiff_t>(begin), count, slot.ids.begin());
  }

 private:
  /// A token of the piece, in the list of those that are left.
  struct Symbol {
    std::int32_t id;
    std::uint32_t rank;   // of the merge with the next one, as far as it is known
    std::int32_t merged;  // what that merge makes
    std::uint32_t before, after;
  };
  struct Scratch {
    std::vector<Symbol> symbols;
    std::vector<std::uint64_t> heap;  // rank and place, the lowest first
  };

  void merge(std::string_view piece, std::vector<std::int32_t>& out) const {
    if (whole_first_) {
      const std::int32_t whole = table_.find(piece, [this](std::int32_t id) { return text(id); });
      if (whole >= 0) {
        out.push_back(whole);
        return;
      }
    }
    thread_local Scratch scratch;
    std::vector<Symbol>& symbols = scratch.symbols;
    std::vector<std::uint64_t>& heap = scratch.heap;  // no binding: clang 14 does not capture these
    const auto count = static_cast<std::uint32_t>(piece.size());
    constexpr std::uint32_t none = detail::MergeTable::none;
    symbols.resize(count);
    heap.clear();
    for (std::uint32_t i = 0; i < count; ++i) {
      symbols[i] = {bytes_[static_cast<unsigned char>(piece[i])], none, -1, i - 1, i + 1};
    }
    const auto look = [&](std::uint32_t place) {
      Symbol& symbol = symbols[place];
      symbol.rank = none;
      if (symbol.after >= count) return false;
      const detail::MergeTable::Entry& entry = merges_.find({symbol.id, symbols[symbol.after].id});
      symbol.rank = entry.rank;
      symbol.merged = entry.merged;
      if (entry.rank == none) return false;
      heap.push_back(static_cast<std::uint64_t>(entry.rank) << 32U | place);
      return true;
    };
    for (std::uint32_t i = 0; i < count; ++i) look(i);
    std::make_heap(heap.begin(), heap.end(), std::greater<>());
    while (!heap.empty()) {
      std::pop_heap(heap.begin(), heap.end(), std::greater<>());
      const std::uint64_t top = heap.back();
      heap.pop_back();
      const auto place = static_cast<std::uint32_t>(top);
      Symbol& symbol = symbols[place];
      // What is gone, or has another neighbour by now, left its old rank in the heap.
      if (symbol.id < 0 || symbol.rank != static_cast<std::uint32_t>(top >> 32U)) continue;
      Symbol& next = symbols[symbol.after];
      symbol.id = symbol.merged;
      symbol.after = next.after;
      next.id = -1;
      if (symbol.after < count) symbols[symbol.after].before = place;
      if (look(place)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
      if (place > 0 && look(symbol.before)) std::push_heap(heap.begin(), heap.end(), std::greater<>());
    }
    for (std::uint32_t i = 0; i < count; i = symbols[i].after) out.push_back(symbols[i].id);
  }

  bool whole_first_;
  detail::TokenTable table_;
  detail::MergeTable merges_;
  std::array<std::int32_t, 256> bytes_{};
  std::string arena_;
  std::vector<std::size_t> ends_;
};

}  // namespace mtpx
