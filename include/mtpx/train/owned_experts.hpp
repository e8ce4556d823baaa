#pragma once
// Gradients, moments and masters of experts that have one owner among the ranks.

#include <mtpx/comm/group.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

namespace mtpx::detail {

/// This rank's experts of one stacked weight.
template <typename T, typename D>
struct OwnedWeight {
  using A = acc_t<T>;
  const void* place = nullptr;  // where its numbers are
  Shape shape;                  // [E / ranks, out, in]
  Tensor<A, D> sum, m, v, master;
  Tensor<A, D> tail;    // the chunk of the sum of squares that ends on another rank
  bool taking = false;  // has got a gradient in this step
};

/// The experts that ranks have shared out (see experts_across()): gradients come apart for the micro-batch of
/// each rank, and are added in the order of the ranks; weights and moments stay where they are. For the norm
/// the chunks are those of all experts of a weight, as one rank cuts them: one that begins on a rank and ends
/// on another is summed by the first, which is told the rest.
template <typename T, typename D>
class OwnedExperts {
 public:
  using A = acc_t<T>;                                    ///< type of gradients, moments and masters
  static constexpr Index chunk = squares_chunk<A>;       ///< numbers of a chunk
  static constexpr bool rounds = !std::is_same_v<T, A>;  ///< whether a master is another number

  /// Finds the weights that are shared out, and makes what is kept of them. All ranks have as many.
  void reserve(Leaves<T, D>& module, const Group<D>& group) {
    const D& device = group.device();
    walk(module, "", [&](const std::string&, auto& member) {
      if constexpr (std::is_same_v<std::remove_cvref_t<decltype(member)>, StackedWeight<T, D>>) {
        if (!member.shared_out() || member.weight.frozen()) return;
        const Shape w = member.weight.shape();
        const Index size = w.size();
        OwnedWeight<T, D> one{member.weight.data(),
                              w,
                              Tensor<A, D>(device, {size}),
                              Tensor<A, D>::zeros(device, {size}),
                              Tensor<A, D>::zeros(device, {size}),
                              {},
                              {}};
        if constexpr (rounds) {
          one.master = Tensor<A, D>(device, {size});
          copy_rows(device, 1, size, member.weight.data(), size, one.master.data(), size, false);
        }
        Tensor<A, D>& gradients = member.weight.slot()->grad;  // a backward may have filled them
        const Shape of_ranks{group.size() * w[0], w[1], w[2]};
        if (!gradients.defined() || gradients.shape() != of_ranks) gradients = Tensor<A, D>(device, of_ranks);
        all_.push_back(std::move(one));
      }
    });
    Index width = 0;
    bool cut = false;
    for (auto& one : all_) {
      const Index size = one.sum.size();
      width += most_chunks(size);
      cut = cut || size % chunk != 0;
    }
    if (all_.empty()) return;
    chunk_sums_ = Tensor<double, D>::zeros(device, {width});
    if (!cut) return;
    heads_ = Tensor<A, D>::zeros(device, {group.size(), static_cast<Index>(all_.size()), chunk});
    for (auto& one : all_) {
      if (one.sum.size() % chunk != 0) one.tail = Tensor<A, D>(device, {chunk});
    }
  }

  /// The one that this parameter is, or null.
  template <typename P>
  OwnedWeight<T, D>* find(const P& parameter) {
    const auto found = std::find_if(all_.begin(), all_.end(),
                                    [&](const auto& one) { return one.place == parameter.data(); });
    return found == all_.end() ? nullptr : &*found;
  }
  /// Its number among them.
  std::size_t number(const OwnedWeight<T, D>& one) const {
    return static_cast<std::size_t>(&one - all_.data());
  }

  /// Adds the gradients of one micro-batch of each rank, behind what is there unless it is the first.
  template <typename P>
  void add(OwnedWeight<T, D>& one, P& parameter, const Group<D>& group, bool first) {
    const Tensor<A, D> gradients = parameter.grad();
    if (gradients.defined()) {
      fold_parts(group.device(), one.sum.size(), group.size(), gradients.data(),
                 Sink<A>{one.sum.data(), !first});
      one.taking = true;
    } else if (first) {
      set_zero(group.device(), one.sum.data(), one.sum.bytes());
    }
    parameter.zero_grad();
  }

  /// The sums of squares of all chunks of all ranks' experts, weight by weight.
  Tensor<double, D> squares(const Group<D>& group) {
    if (all_.empty()) return {};
    const D& device = group.device();
    const Index ranks = group.size(), rank = group.rank(), width = chunk_sums_.size();
    tell_heads(group);
    std::vector<std::span<const A>> spans;
    std::vector<Index> places;  // of their first chunks in chunk_sums_
    Index place = 0;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const OwnedWeight<T, D>& one = all_[i];
      const Index size = one.sum.size(), begin = rank * size, end = begin + size, total = ranks * size;
      const Index first = first_chunk(size, rank) * chunk, whole = end == total ? end : end / chunk * chunk;
      if (first < whole) {
        spans.emplace_back(one.sum.data() + (first - begin), static_cast<std::size_t>(whole - first));
        places.push_back(place);
      }
      if (first < end && whole < end) {  // begins here and ends on another rank
        const Index from = std::max(first, whole), until = std::min(from + chunk, total);
        copy_on_device(device, one.tail.data(), one.sum.data() + (from - begin),
                       static_cast<std::size_t>(end - from) * sizeof(A));
        Index at = end - from;
        for (Index r = rank + 1; at < until - from; ++r) {
          const Index count = std::min(size, until - from - at);
          copy_on_device(device, one.tail.data() + at, head(r, i),
                         static_cast<std::size_t>(count) * sizeof(A));
          at += count;
        }
        spans.emplace_back(one.tail.data(), static_cast<std::size_t>(until - from));
        places.push_back(place + (from - first) / chunk);
      }
      place += most_chunks(size);
    }
    for (std::size_t begin = 0, end = 0; begin < spans.size(); begin = end) {  // neighbours at once
      Index next = places[begin];
      for (end = begin; end < spans.size() && places[end] == next; ++end)
        next += (static_cast<Index>(spans[end].size()) + chunk - 1) / chunk;
      squares_of_chunks(device, std::span<const std::span<const A>>(spans).subspan(begin, end - begin),
                        chunk_sums_.data() + places[begin]);
    }
    const Tensor<double, D> gathered(device, {ranks, width});
    group.all_gather(chunk_sums_.data(), gathered.data(), chunk_sums_.bytes());
    Index count = 0;
    for (const auto& one : all_) count += (ranks * one.sum.size() + chunk - 1) / chunk;
    const Tensor<double, D> ordered(device, {count});
    double* to = ordered.data();
    ranges_.clear();
    place = 0;
    for (const auto& one : all_) {
      const Index size = one.sum.size(), before = to - ordered.data();
      if (size % chunk == 0) {
        copy_rows(device, ranks, size / chunk, gathered.data() + place, width, to, size / chunk, false);
        to += ranks * (size / chunk);
      } else {
        for (Index r = 0; r < ranks; ++r) {
          const Index own = first_chunk(size, r + 1) - first_chunk(size, r);
          copy_on_device(device, to, gathered.data() + r * width + place,
                         static_cast<std::size_t>(own) * sizeof(double));
          to += own;
        }
      }
      ranges_.push_back({before, (to - ordered.data()) - before});
      place += most_chunks(size);
    }
    return ordered;
  }
  /// Where a weight's chunks stand in that.
  ChunkRange chunks(const OwnedWeight<T, D>& one) const { return ranges_[number(one)]; }

  /// What AdamW does to it.   group: as AdamW says it
  template <typename P, typename G>
  AdamWTensor<T> moving(OwnedWeight<T, D>& one, P& parameter, const G& group) {
    A* master = nullptr;
    if constexpr (rounds) {
      master = one.master.data();
    } else {
      master = parameter.data();
    }
    one.taking = false;
    return {one.sum.size(), one.sum.data(),   one.m.data(),       one.v.data(),
            master,         parameter.data(), group.weight_decay, group.rate};
  }
  /// Drops the gradients of a step that was not taken to its end.
  void forget() {
    for (auto& one : all_) one.taking = false;
  }
  /// All of them.
  const std::vector<OwnedWeight<T, D>>& all() const { return all_; }

 private:
  /// The first chunk that begins on a rank, each of which has so many numbers of a weight.
  static Index first_chunk(Index size, Index rank) { return (rank * size + chunk - 1) / chunk; }
  /// Of any rank.
  static Index most_chunks(Index size) { return (size + chunk - 1) / chunk; }

  A* head(Index rank, std::size_t weight) const {
    return heads_.data() + (rank * static_cast<Index>(all_.size()) + static_cast<Index>(weight)) * chunk;
  }
  /// Where chunks do not end with ranks: the first numbers of every rank, to all.
  void tell_heads(const Group<D>& group) {
    if (!heads_.defined()) return;
    for (std::size_t i = 0; i < all_.size(); ++i) {
      const Index count = std::min(chunk, all_[i].sum.size());
      copy_on_device(group.device(), head(group.rank(), i), all_[i].sum.data(),
                     static_cast<std::size_t>(count) * sizeof(A));
    }
    group.all_gather(head(group.rank(), 0), heads_.data(),
                     heads_.bytes() / static_cast<std::size_t>(group.size()));
  }

  std::vector<OwnedWeight<T, D>> all_;
  std::vector<ChunkRange> ranges_;
  Tensor<double, D> chunk_sums_;  // of this rank's chunks, with room for as many as any rank has
  Tensor<A, D> heads_;            // [ranks, weights, chunk]
};

}  // namespace mtpx::detail
