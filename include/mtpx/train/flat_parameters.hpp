#pragma once
// Parameters one behind the other, and their gradients, cut into shards.

#include <mtpx/comm/group.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>
#include <mtpx/train/bucket_order.hpp>

#include <algorithm>
#include <cstddef>
#include <memory>
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
    slots_.resize(entries.size());
    adopt_gradient(entry, parameter);
  }
  /// Moves the gradient alone; false where it is there: it leaves when the parameter is frozen and then not.
  bool adopt_gradient(const FlatEntry& entry, Parameter<V, D>& parameter) {
    const std::shared_ptr<Slot<A, D>>& slot = parameter.slot();
    if (std::exchange(slots_[static_cast<std::size_t>(&entry - entries.data())], slot) == slot) return false;
    const Tensor<A, D> before = std::exchange(slot->grad, view(gradients_, entry));
    const Index size = before.defined() ? before.size() : 0;
    if (slot->filled)
      copy_rows(before.device(), 1, size, before.data(), size, slot->grad.data(), size, false);
    return true;
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

  /// AdamW's work on this rank's shard, bucket by bucket. group_of(entry) as AdamW says it
  template <typename GroupOf>
  std::vector<AdamWTensor<V>> moving(const GroupOf& group_of) {
    std::vector<AdamWTensor<V>> list;
    moving_.assign(static_cast<std::size_t>(buckets_), 0);
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
      ++moving_[static_cast<std::size_t>(piece.local / (share_ * chunk))];
    }
    for (FlatEntry& entry : entries) entry.taking = false;
    return list;
  }
  /// Calls move(list) for parts of what moving() returned, and tells all ranks what has moved while the next
  /// part does.
  template <typename Move>
  void move(const Group<D>& group, Beside<D>& beside, std::span<const AdamWTensor<V>> list,
            const Move& move) const {
    constexpr Index parts = 4;  // few meetings of ranks, and little that is told behind the last part
    for (Index part = 0; part < parts; ++part) {
      const Index begin = part * buckets_ / parts, end = (part + 1) * buckets_ / parts;
      if (begin == end) continue;
      std::size_t count = 0;
      for (Index b = begin; b < end; ++b) count += moving_[static_cast<std::size_t>(b)];
      move(list.first(count));
      list = list.subspan(count);
      beside([&](const D& device) {
        group.on(device).gather_blocks(values_.data() + begin * ranks_ * share_ * chunk,
                                       static_cast<std::size_t>(end - begin),
                                       static_cast<std::size_t>(share_ * chunk) * sizeof(V));
      });
    }
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
  std::vector<std::size_t> moving_;                 // of each bucket, how many tensors moving() returned
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
