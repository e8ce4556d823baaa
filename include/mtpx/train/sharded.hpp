#pragma once
// Gradients, moments and masters shared out among the ranks of a group.

#include <mtpx/comm/group.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>
#include <mtpx/train/bucket_order.hpp>
#include <mtpx/train/owned_experts.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx::detail {

/// A parameter in flat memory.
struct FlatEntry {
  std::string name;
  Shape shape;
  Index first = 0;              // chunk
  Index chunks = 0;             // the last of which has what is left
  const void* place = nullptr;  // where its numbers are
  bool taking = false;          // has got a gradient in this step
};

/// Parameters of one type of numbers, one behind the other in flat memory, which is cut into shards at the
/// chunks of the sum of squares: each parameter begins with a chunk. So a chunk has one owner, and what is
/// summed over it one order, however many ranks there are.
///
///   flat memory = [buckets, ranks, share] chunks;   rank r owns [:, r, :]
///
/// A bucket is what is exchanged at once: its memory for what arrives is small, and its part of every rank
/// touches the next.
template <typename V, typename D>
class FlatParameters {
 public:
  using A = acc_t<V>;                                    ///< type of gradients, moments and masters
  static constexpr Index chunk = squares_chunk<A>;       ///< numbers of a chunk
  static constexpr bool rounds = !std::is_same_v<V, A>;  ///< whether a master is another number

  std::vector<FlatEntry> entries;

  /// Another parameter behind those that there are.
  void count(const std::string& name, const Shape& shape) {
    entries.push_back({name, shape, chunks_, (shape.size() + chunk - 1) / chunk});
    chunks_ += entries.back().chunks;
  }

  /// Takes the memory, when all have been counted.
  /// bucket: bytes of gradients that a rank gets from each at once, about
  void make(const Group<D>& group, Index bucket) {
    const Index ranks = group.size();
    const Index most = std::max<Index>(1, bucket / (chunk * static_cast<Index>(sizeof(A))));
    buckets_ = std::max<Index>(1, (chunks_ + ranks * most - 1) / (ranks * most));
    share_ = std::max<Index>(1, (chunks_ + ranks * buckets_ - 1) / (ranks * buckets_));
    ranks_ = ranks, rank_ = group.rank();
    const D& device = group.device();
    const Index all = buckets_ * ranks * share_ * chunk, own = buckets_ * share_ * chunk;
    values_ = Tensor<V, D>::zeros(device, {all});
    gradients_ = Tensor<A, D>::zeros(device, {all});
    arrived_ = Tensor<A, D>(device, {ranks * share_ * chunk});
    sum_ = Tensor<A, D>(device, {own});
    m = Tensor<A, D>::zeros(device, {own});
    v = Tensor<A, D>::zeros(device, {own});
    chunk_sums_ = Tensor<double, D>::zeros(device, {buckets_ * share_});
    shown_[0] = group.share(values_.data(), values_.bytes());
    shown_[1] = group.share(gradients_.data(), gradients_.bytes());
    order_ = BucketOrder(buckets_);
    for (Index b = 0; b < buckets_; ++b) {
      for (FlatEntry& entry : entries) find_pieces(entry, b);
    }
  }

  /// Moves a parameter, and its gradient, to its place. which: of entries, in order
  void adopt(std::size_t which, Parameter<V, D>& parameter) {
    FlatEntry& entry = entries[which];
    parameter.move_to(view(values_, entry));
    entry.place = parameter.data();
    slots_.push_back(parameter.slot());
    const Tensor<A, D> before = std::exchange(parameter.slot()->grad, view(gradients_, entry));
    if (!parameter.slot()->filled) return;
    const Index size = before.size();
    copy_rows(before.device(), 1, size, before.data(), size, parameter.slot()->grad.data(), size, false);
  }
  /// Masters of the numbers as they are now.
  void make_masters(const D& device) {
    if constexpr (rounds) {
      master = Tensor<A, D>::zeros(device, {sum_.size()});
      for (const Piece& piece : pieces_)
        copy_rows(device, 1, piece.count, values_.data() + piece.global, piece.count,
                  master.data() + piece.local, piece.count, false);
    }
  }

  /// Sends every shard of a micro-batch's gradient to its owner, who adds what has arrived in the order of
  /// the ranks; behind what is there already unless it is the first. In the midst of a backward those buckets
  /// that it writes to no more, at its end the rest. Beside the device's own work, which may write gradients
  /// again behind beside.join().
  void send_ready(const Group<D>& group, Beside<D>& beside, bool first) {
    order_.look(writes(), [&](Index bucket) { exchange(group, beside, bucket, first); });
  }
  void send_rest(const Group<D>& group, Beside<D>& beside, bool first) {
    order_.finish(writes(), [&](Index bucket) { exchange(group, beside, bucket, first); });
  }
  /// The next backward may be another one.
  void forget_order() { order_.forget(); }

  /// The sums of squares of all chunks, of all ranks, in the order of the flat memory.
  Tensor<double, D> squares(const Group<D>& group) {
    const D& device = group.device();
    std::vector<std::span<const A>> own;
    for (const Piece& piece : pieces_)
      own.emplace_back(sum_.data() + piece.local, static_cast<std::size_t>(piece.count));
    squares_of_chunks(device, std::span<const std::span<const A>>(own), chunk_sums_.data());
    // [ranks, buckets, share], then the ranks inside the buckets.
    const Index each = buckets_ * share_;
    Tensor<double, D> gathered(device, {ranks_ * each});
    group.all_gather(chunk_sums_.data(), gathered.data(), chunk_sums_.bytes());
    if (buckets_ == 1) return gathered;
    Tensor<double, D> ordered(device, {ranks_ * each});
    for (Index r = 0; r < ranks_; ++r)
      copy_rows(device, buckets_, share_, gathered.data() + r * each, share_, ordered.data() + r * share_,
                ranks_ * share_, false);
    return ordered;
  }

  /// AdamW's work on this rank's shard; then every rank has all numbers. group_of(entry) as AdamW says it
  template <typename GroupOf>
  std::vector<AdamWTensor<V>> moving(const GroupOf& group_of) {
    std::vector<AdamWTensor<V>> list;
    for (const Piece& piece : pieces_) {
      const FlatEntry& entry = entries[piece.entry];
      if (!entry.taking) continue;
      const auto group = group_of(entry.name, entry.shape);
      V* const p = values_.data() + piece.global;
      A* of_master = nullptr;
      if constexpr (rounds) {
        of_master = master.data() + piece.local;
      } else {
        of_master = p;
      }
      list.push_back({piece.count, sum_.data() + piece.local, m.data() + piece.local, v.data() + piece.local,
                      of_master, p, group.weight_decay, group.rate});
    }
    for (FlatEntry& entry : entries) entry.taking = false;
    return list;
  }
  void gather_values(const Group<D>& group) const {
    group.gather_blocks(values_.data(), static_cast<std::size_t>(buckets_),
                        static_cast<std::size_t>(share_ * chunk) * sizeof(V));
  }

  /// What of every parameter the ranks hold together, in flat memory of its own.
  Tensor<A, D> whole(const Group<D>& group, const Tensor<A, D>& shard) const {
    const Index part = share_ * chunk;
    Tensor<A, D> all(group.device(), {buckets_ * ranks_ * part});
    for (Index b = 0; b < buckets_; ++b)
      group.all_gather(shard.data() + b * part, all.data() + b * ranks_ * part,
                       static_cast<std::size_t>(part) * sizeof(A));
    return all;
  }
  /// This rank's part of it, as it stands there now.
  void take(const D& device, const Tensor<A, D>& all, const Tensor<A, D>& shard) const {
    for (const Piece& piece : pieces_)
      copy_rows(device, 1, piece.count, all.data() + piece.global, piece.count, shard.data() + piece.local,
                piece.count, false);
  }
  /// A parameter's part of flat memory.
  template <typename N>
  static Tensor<N, D> view(const Tensor<N, D>& all, const FlatEntry& entry) {
    return all.slice_front(entry.first * chunk, entry.first * chunk + entry.shape.size())
        .reshape(entry.shape);
  }

  Tensor<A, D> m, v;    // [buckets, share, chunk]
  Tensor<A, D> master;  // the same, where numbers are rounded

 private:
  /// What this rank owns of a parameter in one bucket: whole chunks, but for the parameter's last.
  struct Piece {
    std::size_t entry = 0;
    Index global = 0, local = 0;  // first number, in the flat memory and in the shard
    Index count = 0;
  };

  /// Calls visit(number, begin, end) for the entries that have chunks begin .. end - 1 of a bucket.
  template <typename Visit>
  void each_entry(Index bucket, const Visit& visit) const {
    const Index own = bucket * ranks_ * share_, next = own + ranks_ * share_;
    auto entry = std::upper_bound(
        entries.begin(), entries.end(), own,
        [](Index chunk_of, const FlatEntry& one) { return chunk_of < one.first + one.chunks; });
    for (; entry != entries.end() && entry->first < next; ++entry)
      visit(static_cast<std::size_t>(entry - entries.begin()), std::max(entry->first, own),
            std::min(entry->first + entry->chunks, next));
  }
  auto writes() const {
    return [this](Index bucket) {
      Index all = 0;
      each_entry(bucket, [&](std::size_t which, Index, Index) { all += slots_[which]->writes; });
      return all;
    };
  }
  void exchange(const Group<D>& group, Beside<D>& beside, Index bucket, bool first) {
    each_entry(bucket, [&](std::size_t which, Index begin, Index end) {
      if (slots_[which]->filled) return;  // one without a gradient adds zeros
      set_zero(group.device(), gradients_.data() + begin * chunk,
               static_cast<std::size_t>((end - begin) * chunk) * sizeof(A));
    });
    const Index part = share_ * chunk;
    beside([&](const D& device) {
      group.on(device).all_to_all(gradients_.data() + bucket * ranks_ * part, arrived_.data(),
                                  static_cast<std::size_t>(part) * sizeof(A));
      fold_parts(device, part, ranks_, arrived_.data(), Sink<A>{sum_.data() + bucket * part, !first});
    });
  }

  void find_pieces(const FlatEntry& entry, Index bucket) {
    const Index own = (bucket * ranks_ + rank_) * share_;  // first chunk of this rank's
    const Index begin = std::max(entry.first, own), end = std::min(entry.first + entry.chunks, own + share_);
    if (begin >= end) return;
    const Index last = std::min(end * chunk, entry.first * chunk + entry.shape.size());
    pieces_.push_back({static_cast<std::size_t>(&entry - entries.data()), begin * chunk,
                       (bucket * share_ + begin - own) * chunk, last - begin * chunk});
  }

  Index chunks_ = 0, buckets_ = 1, share_ = 0, ranks_ = 1, rank_ = 0;
  std::vector<Piece> pieces_;                       // in the order of the flat memory
  std::vector<std::shared_ptr<Slot<A, D>>> slots_;  // of the entries
  BucketOrder order_;
  Tensor<V, D> values_;           // [buckets, ranks, share, chunk]
  Tensor<A, D> gradients_;        // the same, of one micro-batch
  Tensor<A, D> arrived_;          // [ranks, share, chunk], of one bucket
  Tensor<A, D> sum_;              // [buckets, share, chunk]
  Tensor<double, D> chunk_sums_;  // [buckets, share]
  std::shared_ptr<void> shown_[2];
};

}  // namespace mtpx::detail

namespace mtpx {

/// Bytes of gradients that a rank gets from each other one at once: many for any wire, few beside a model.
inline constexpr Index usual_bucket = Index{16} << 20;

/// What AdamW keeps where a group of ranks trains one model by data (ZeRO, Rajbhandari et al. 2019,
/// arXiv 1910.02054: the optimiser's state, stage 1, and the sum of the gradients, stage 2, are shared out).
/// Every rank computes the gradient of its own micro-batches; of a step's micro-batches 0, 1, 2, .. rank r
/// has every one whose number is r modulo the ranks. Of each parameter a rank owns some chunks:
///
///   g = ((g_0 + g_1) + g_2) + ...     of what it owns; micro-batches' gradients come from their ranks
///   norm                              from the chunks' sums of squares, which all ranks tell each other
///   m, v, master, p                   of what it owns; then all ranks tell each other p
///
/// So a step has the bits of one device that takes all the micro-batches, whatever the ranks. Collective:
/// every rank makes the same calls. Experts that the ranks have shared out stay with their owners, see
/// detail::OwnedExperts. The module's parameters move to flat memory and stay there; none may be
/// added, and none that was frozen then may train.
template <typename T, typename D>
class Shards {
 public:
  using A = acc_t<T>;  ///< type of gradients, moments and masters

  /// bucket: bytes of gradients that a rank gets from each other one at once, about; it changes no bit
  explicit Shards(Group<D> group, Index bucket = usual_bucket) : group_(std::move(group)), bucket_(bucket) {}

  /// Who shares.
  const Group<D>& group() const { return group_; }

  /// Moves the parameters that train to flat memory, and makes what is kept of this rank's part. Done by the
  /// first of all other calls; before a step is recorded.
  template <typename Module>
  void reserve(Module& module) {
    if (made_) return;
    experts_.reserve(module, group_);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      if (!parameter.frozen() && experts_.find(parameter) == nullptr)
        flat(parameter).count(name, parameter.shape());
    });
    own_.make(group_, bucket_);
    if constexpr (mixed) sums_.make(group_, bucket_);
    std::size_t next = 0, next_of_sums = 0;
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      if (parameter.frozen() || experts_.find(parameter) != nullptr) return;
      std::size_t& which = is_own<decltype(parameter)> ? next : next_of_sums;
      flat(parameter).adopt(which++, parameter);
    });
    own_.make_masters(group_.device());
    beside_.emplace(group_.device());
    made_ = true;
  }

  /// For the midst of a backward, between its steps and before the first: gradients that are final leave, so
  /// that they are on their way while it runs. Backwards between which it is called are alike, until
  /// forget_order(); add() follows each, and the next one calls it, too. Without it all leave in add().
  void send_ready() {
    if (!made_) return;
    if (!std::exchange(watched_, true)) beside_->join();
    own_.send_ready(group_, *beside_, first_);
    if constexpr (mixed) sums_.send_ready(group_, *beside_, first_);
  }
  /// The next backward may be another one: it is watched before gradients leave early again.
  void forget_order() {
    own_.forget_order();
    sums_.forget_order();
  }

  /// Takes the gradients of one micro-batch of every rank, which then begin at zero. A step that has taken
  /// none takes those that there are.
  template <typename Module>
  void add(Module& module) {
    reserve(module);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      if (auto* const owned = experts_.find(parameter))
        return experts_.add(*owned, parameter, group_, first_);
      detail::FlatEntry* const entry = entry_of(parameter);
      if (entry == nullptr) {
        if (!parameter.frozen())
          throw Error(
              cat("[shards] ", name, " trains now, and did not when the ranks shared the parameters out"));
        return;
      }
      entry->taking = entry->taking || parameter.grad().defined();
    });
    own_.send_rest(group_, *beside_, first_);
    if constexpr (mixed) sums_.send_rest(group_, *beside_, first_);
    for_each_parameter(module, [](const std::string&, auto& parameter) { parameter.zero_grad(); });
    if (!std::exchange(watched_, false)) beside_->join();
    first_ = false;
  }

  /// The squares of the gradients' norms, a number for each parameter that has a gradient, in the module's
  /// order; with room for `more` behind them.
  template <typename Module>
  Tensor<double, D> squares(Module& module, Index more) {
    if (first_) add(module);
    beside_->join();
    const Tensor<double, D> own = own_.squares(group_), of_experts = experts_.squares(group_);
    Tensor<double, D> others;
    if constexpr (mixed) others = sums_.squares(group_);
    std::vector<std::pair<const double*, ChunkRange>> ranges;
    for_each_parameter(module, [&](const std::string&, auto& parameter) {
      if (const auto* const owned = experts_.find(parameter)) {
        if (owned->taking) ranges.emplace_back(of_experts.data(), experts_.chunks(*owned));
        return;
      }
      const detail::FlatEntry* const entry = entry_of(parameter);
      if (entry == nullptr || !entry->taking) return;
      const Tensor<double, D>& sums = is_own<decltype(parameter)> ? own : others;
      ranges.emplace_back(sums.data(), ChunkRange{entry->first, entry->chunks});
    });
    Tensor<double, D> all(group_.device(), {std::max<Index>(1, static_cast<Index>(ranges.size()) + more)});
    if (ranges.empty()) fill_value(group_.device(), 1, 0.0, all.data());
    // Neighbours of one kind at once.
    for (std::size_t begin = 0, end = 0; begin < ranges.size(); begin = end) {
      std::vector<ChunkRange> of_kind;
      for (end = begin; end < ranges.size() && ranges[end].first == ranges[begin].first; ++end)
        of_kind.push_back(ranges[end].second);
      sums_of_chunks(group_.device(), of_kind, ranges[begin].first, all.data() + begin);
    }
    return all;
  }

  /// What moves on this rank; gradients are then forgotten. See AdamW::gather().
  template <typename Module, typename GroupOf, typename Parameters>
  void gather(Module& module, const GroupOf& group_of, Parameters& to) {
    if (first_) add(module);
    to.template of<T>() = own_.moving(group_of);
    if constexpr (mixed) to.template of<A>() = sums_.moving(group_of);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      if constexpr (is_own<decltype(parameter)>) {
        auto* const owned = experts_.find(parameter);
        if (owned != nullptr && owned->taking)
          to.template of<T>().push_back(experts_.moving(*owned, parameter, group_of(name, owned->shape)));
      }
    });
    first_ = true;
  }
  /// Tells all ranks what has moved.
  void spread() const {
    own_.gather_values(group_);
    if constexpr (mixed) sums_.gather_values(group_);
  }
  /// Drops the gradients of a step that was not taken to its end.
  void forget() {
    for (auto& entry : own_.entries) entry.taking = false;
    for (auto& entry : sums_.entries) entry.taking = false;
    experts_.forget();
    forget_order();
    if (beside_) beside_->forget();
    first_ = true;
    watched_ = false;
  }

  /// which: 0 m, 1 v, 2 masters. Calls visit(find), find(parameter) being the whole tensor, or undefined
  /// where there is none; what then stands in it is kept.
  template <typename Visit>
  void with_whole(int which, const Visit& visit) {
    const auto shard = [&](const auto& of) { return which == 0 ? of.m : which == 1 ? of.v : of.master; };
    const auto whole = [&](auto& flat) {
      return shard(flat).defined() ? flat.whole(group_, shard(flat)) : Tensor<A, D>();
    };
    const Tensor<A, D> own = whole(own_), others = whole(sums_);
    visit([&](const auto& parameter) {
      if (const auto* const owned = experts_.find(parameter)) {
        const Tensor<A, D>& state = shard(*owned);
        return state.defined() ? state.reshape(owned->shape) : Tensor<A, D>();
      }
      const detail::FlatEntry* const entry = entry_of(parameter);
      const Tensor<A, D>& all = is_own<decltype(parameter)> ? own : others;
      return entry != nullptr && all.defined() ? own_.view(all, *entry) : Tensor<A, D>();
    });
    if (own.defined()) own_.take(group_.device(), own, shard(own_));
    if (others.defined()) sums_.take(group_.device(), others, shard(sums_));
  }

  /// Bytes of moments, and of masters, that this rank keeps.
  std::size_t moment_bytes() const {
    std::size_t all = bytes(own_.m) + bytes(own_.v) + bytes(sums_.m) + bytes(sums_.v);
    for (const auto& one : experts_.all()) all += bytes(one.m) + bytes(one.v);
    return all;
  }
  /// See moment_bytes().
  std::size_t master_bytes() const {
    std::size_t all = bytes(own_.master);
    for (const auto& one : experts_.all()) all += bytes(one.master);
    return all;
  }

 private:
  static constexpr bool mixed = !std::is_same_v<T, A>;  // bf16 models have parameters in float, too

  static std::size_t bytes(const Tensor<A, D>& tensor) { return tensor.defined() ? tensor.bytes() : 0; }
  template <typename P>
  static constexpr bool is_own = std::is_same_v<typename std::remove_cvref_t<P>::value_type, T>;
  template <typename P>
  auto& flat(const P&) {
    if constexpr (is_own<P>) {
      return own_;
    } else {
      return sums_;
    }
  }
  template <typename P>
  detail::FlatEntry* entry_of(const P& parameter) {
    auto& all = flat(parameter).entries;
    const auto found = std::find_if(all.begin(), all.end(),
                                    [&](const auto& entry) { return entry.place == parameter.data(); });
    return found == all.end() ? nullptr : &*found;
  }

  Group<D> group_;
  Index bucket_;
  detail::FlatParameters<T, D> own_;
  detail::OwnedExperts<T, D> experts_;
  detail::FlatParameters<A, D> sums_;  // those of the type of sums, where that is another
  std::optional<Beside<D>> beside_;
  bool made_ = false, first_ = true, watched_ = false;  // watched: send_ready() was called in this backward
};

}  // namespace mtpx
