#pragma once

#include <mtpx/core/shape.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace mtpx {

/// What a sequence drafted in a round, as a tree of tokens: node 0 is the last token that is known, and each
/// node's children are candidates for the place behind it. A chain of drafts is a tree of one child a node.
/// Nodes are added level by level, children of a node one after the other.
///
/// Node u stands at position e + depth(u), if e is that of node 0. Its entry in a cache stands at e +
/// place(u): the first children of first children at their positions, the others behind all positions. So
/// what stands of a tree is in its place already unless a branch won.
class DraftTree {
 public:
  /// Begins with node 0.   depth: of the deepest node that will be added
  void begin(std::int32_t root, Index depth) {
    tokens_.assign(1, root);
    parents_.assign(1, 0);
    places_.assign(1, 0);
    levels_.assign(1, 0);
    last_place_ = depth;
  }

  /// Begins the next level.
  void next_level() { levels_.push_back(size()); }

  /// Adds a child of a node of the level before this one.
  void add(Index parent, std::int32_t token) {
    const bool first = parents_.back() != parent || size() == levels_.back();
    const bool straight = first && place(parent) == depth() - 1;
    tokens_.push_back(token);
    parents_.push_back(parent);
    places_.push_back(straight ? depth() : ++last_place_);
  }

  /// Gives a node another token.
  void set(Index node, std::int32_t token) { tokens_[static_cast<std::size_t>(node)] = token; }

  /// Nodes so far.
  Index size() const { return static_cast<Index>(tokens_.size()); }
  /// Levels so far, but for node 0's.
  Index depth() const { return static_cast<Index>(levels_.size()) - 1; }
  /// Nodes of level d are [begin_of(d), begin_of(d + 1)).
  Index begin_of(Index d) const { return d > depth() ? size() : levels_[static_cast<std::size_t>(d)]; }
  /// All tokens, by node.
  std::span<const std::int32_t> tokens() const { return tokens_; }
  /// Token of a node.
  std::int32_t token(Index node) const { return tokens_[static_cast<std::size_t>(node)]; }
  /// Parent of a node.
  Index parent(Index node) const { return parents_[static_cast<std::size_t>(node)]; }
  /// Where a node's entry stands, from that of node 0.
  Index place(Index node) const { return places_[static_cast<std::size_t>(node)]; }

  /// The child of a node of level d that has this token; -1: none.
  Index child(Index node, Index d, std::int32_t token_of_child) const {
    for (Index c = begin_of(d + 1); c < begin_of(d + 2); ++c) {
      if (parent(c) == node && token(c) == token_of_child) return c;
    }
    return -1;
  }

 private:
  std::vector<std::int32_t> tokens_;
  std::vector<Index> parents_, places_;
  std::vector<Index> levels_;  // first node of each
  Index last_place_ = 0;
};

/// Entries that go to other places of their sequences.
class Moves {
 public:
  /// Forgets all of them and keeps the memory.
  void clear() {
    for (auto& one : parts_) one.clear();
  }
  /// Whether there is none.
  bool empty() const { return parts_[0].empty(); }
  /// Adds one.
  void add(Index sequence, Index from, Index to) {
    const Index move[3] = {sequence, from, to};
    for (std::size_t i = 0; i < 3; ++i) parts_[i].push_back(static_cast<std::int32_t>(move[i]));
  }
  /// [3, n]: sequences, from, to.
  std::span<const std::int32_t> arrays() {
    all_.clear();
    for (const auto& one : parts_) all_.insert(all_.end(), one.begin(), one.end());
    return all_;
  }

 private:
  std::vector<std::int32_t> parts_[3], all_;
};

}  // namespace mtpx
