#pragma once
// Gradients, moments and masters shared out among the ranks of a group.

#include <mtpx/comm/group.hpp>
#include <mtpx/train/flat_parameters.hpp>
#include <mtpx/train/owned_experts.hpp>
#include <mtpx/train/shared_state.hpp>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

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
/// added, and none that was frozen then may train; one that trained then may be frozen and train again, from
/// the next reserve() on.
template <typename T, typename D>
class Shards final : public detail::SharedState<T, D> {
 public:
  using A = acc_t<T>;  ///< type of gradients, moments and masters

  /// bucket: bytes of gradients that a rank gets from each other one at once, about; it changes no bit
  explicit Shards(Group<D> group, Index bucket = usual_bucket) : group_(std::move(group)), bucket_(bucket) {}

  /// Who shares.
  const Group<D>& group() const { return group_; }

  /// Moves the parameters that train to flat memory, and makes what is kept of this rank's part. Done by the
  /// first of all other calls; before a step is recorded. Later calls take back the gradients of those that
  /// were frozen and train again. Throws Error for one that did not train then.
  void reserve(Leaves<T, D> module) override {
    if (made_) {
      for_each_parameter(module, [&](const std::string& name, auto& parameter) {
        if (experts_.find(parameter) == nullptr) trained_entry(name, parameter);
      });
      return;
    }
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
  void add(Leaves<T, D> module) {
    if (!made_) reserve(module);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      if (auto* const owned = experts_.find(parameter))
        return experts_.add(*owned, parameter, group_, first_);
      if (detail::FlatEntry* const entry = trained_entry(name, parameter))
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
  Tensor<double, D> squares(Leaves<T, D> module, Index more) override {
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
  void gather(Leaves<T, D> module, const detail::GroupOf& group_of, detail::Moving<T>& to) override {
    if (first_) add(module);
    experts_moving_ = 0;
    to.template of<T>() = own_.moving(group_of);
    if constexpr (mixed) to.template of<A>() = sums_.moving(group_of);
    for_each_parameter(module, [&](const std::string& name, auto& parameter) {
      if constexpr (is_own<decltype(parameter)>) {
        auto* const owned = experts_.find(parameter);
        if (owned == nullptr || !owned->taking) return;
        to.template of<T>().push_back(experts_.moving(*owned, parameter, group_of(name, owned->shape)));
        ++experts_moving_;
      }
    });
    first_ = true;
  }
  /// Moves parts of what gather() made, and tells all ranks what has moved.
  void move(const detail::Moving<T>& parameters, const detail::AdamWMove<D>& move) override {
    const std::span all(parameters.template of<T>());
    const std::size_t of_experts = experts_moving_;
    own_.move(group_, *beside_, all.first(all.size() - of_experts), move);
    if constexpr (mixed) sums_.move(group_, *beside_, std::span(parameters.template of<A>()), move);
    move(all.last(of_experts));
    beside_->join();
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

  /// which: 0 m, 1 v, 2 masters. Calls show(name, tensor) for the whole tensor of every parameter under its
  /// published name, undefined where there is none; what then stands in it is kept.
  void show_whole(Leaves<T, D> module, int which,
                  const typename detail::SharedState<T, D>::Show& show) override {
    if (!made_) reserve(module);
    const auto shard = [&](const auto& of) { return which == 0 ? of.m : which == 1 ? of.v : of.master; };
    const auto whole = [&](auto& flat) {
      return shard(flat).defined() ? flat.whole(group_, shard(flat)) : Tensor<A, D>();
    };
    const Tensor<A, D> own = whole(own_), others = whole(sums_);
    detail::visit_published<false>(module, show, [&](const auto& parameter) {
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
  /// The entry, with the gradient in its place; null where the parameter did not train and does not.
  template <typename P>
  detail::FlatEntry* trained_entry(const std::string& name, P& parameter) {
    detail::FlatEntry* const entry = entry_of(parameter);
    if (parameter.frozen()) return entry;
    if (entry == nullptr)
      throw Error(
          cat("[shards] ", name, " trains now, and did not when the ranks shared the parameters out"));
    if (flat(parameter).adopt_gradient(*entry, parameter)) {
      if (watched_) throw Error(cat("[shards] ", name, " trains again, which reserve() was not told"));
      forget_order();
    }
    return entry;
  }

  Group<D> group_;
  Index bucket_;
  detail::FlatParameters<T, D> own_;
  detail::OwnedExperts<T, D> experts_;
  detail::FlatParameters<A, D> sums_;  // those of the type of sums, where that is another
  std::optional<Beside<D>> beside_;
  std::size_t experts_moving_ = 0;                      // behind the others, in what gather() made
  bool made_ = false, first_ = true, watched_ = false;  // watched: send_ready() was called in this backward
};

}  // namespace mtpx
