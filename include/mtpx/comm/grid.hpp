#pragma once
// Ranks in rows and columns: copies of a pipeline, and its stages.

#include <mtpx/comm/group.hpp>
#include <mtpx/core/tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace mtpx {

/// Some ranks of a group as a group of their own: their messages go through the whole one, pair by pair, and
/// nobody else takes part.
template <typename D>
class PartWire {
 public:
  /// members: ranks of `all`, each once, this one among them; their place is their rank here. Throws Error
  /// otherwise.
  PartWire(Group<D> all, std::vector<int> members) : all_(std::move(all)), members_(std::move(members)) {
    const auto own = std::find(members_.begin(), members_.end(), all_.rank());
    if (own == members_.end()) throw Error(cat("[group] rank ", all_.rank(), " is not among the members"));
    rank_ = static_cast<int>(own - members_.begin());
  }

  /// This rank's place among the members.
  int rank() const { return rank_; }
  /// How many there are.
  int size() const { return static_cast<int>(members_.size()); }
  /// See HasCollectives.
  void all_to_all(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_to_all_by_pairs(*this, device, from, to, bytes);
  }
  /// See HasCollectives.
  void all_gather(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_gather_by_pairs(*this, device, from, to, bytes);
  }
  /// See HasCollectives.
  void send_receive(const D&, std::span<const Transfer> transfers) {
    std::vector<Transfer> renamed(transfers.begin(), transfers.end());
    for (Transfer& one : renamed) one.peer = members_[static_cast<std::size_t>(one.peer)];
    all_.send_receive(renamed);
  }
  /// See HasCollectives.
  void barrier(const D& device) {
    const Tensor<std::int32_t, D> here(device, {size()});
    detail::all_gather_by_pairs(*this, device, here.data() + rank_, here.data(), sizeof(std::int32_t));
    (void)here.to_host();
  }
  /// See HasCollectives.
  void check(const D&) { all_.check(); }

 private:
  Group<D> all_;
  std::vector<int> members_;
  int rank_ = 0;
};

/// The ranks of a run as copies of a pipeline: rank = copy * stages + stage. So neighbours in a pipeline are
/// neighbours among the ranks, which a machine's fastest wires join.
template <typename D>
struct Grid {
  Group<D> data;    ///< those that have the same stage, one a copy: they share the micro-batches
  Group<D> stages;  ///< those of the same copy, which have the parts of one model

  /// Throws ConfigError where the stages do not divide the ranks.
  Grid(const Group<D>& all, int stages_of_copy) : data(all.device()), stages(all.device()) {
    if (stages_of_copy < 1 || all.size() % stages_of_copy != 0) {
      throw ConfigError(
          cat("[grid] ", all.size(), " ranks are no copies of a pipeline of ", stages_of_copy, " stages"));
    }
    const int copies = all.size() / stages_of_copy, own = all.rank();
    const auto part = [&](int count, int first, int apart) {
      if (count == 1) return Group<D>(all.device());
      if (count == all.size()) return all;
      std::vector<int> members;
      for (int i = 0; i < count; ++i) members.push_back(first + i * apart);
      return Group<D>(all.device(), std::make_shared<PartWire<D>>(all, std::move(members)));
    };
    data = part(copies, own % stages_of_copy, stages_of_copy);
    stages = part(stages_of_copy, own - own % stages_of_copy, 1);
  }
};

}  // namespace mtpx
