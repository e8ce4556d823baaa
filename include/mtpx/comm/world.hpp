#pragma once
// The processes of a run: who this one is among them, and what they tell each other before they compute.

#include <mtpx/comm/tcp.hpp>
#include <mtpx/core/cpu.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

/// The processes of a run, one for each device. A handle: the connections go with its last copy.
class World {
 public:
  /// Of this process alone.
  World() : host_(Cpu(1)) {}
  /// Of those that a wire joins. local_rank, local_size: this process's number among those of its machine,
  /// and how many these are
  World(int local_rank, int local_size, Group<Cpu> host)
      : local_rank_(local_rank), local_size_(local_size), host_(std::move(host)) {}

  /// What the environment says: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, as torchrun and
  /// `mtpx launch` set them; the process alone where there is no WORLD_SIZE, or 1. Waits for the others.
  /// Throws ConfigError for variables that make no sense, CommError where the others do not come.
  static World from_environment() {
    const std::optional<detail::Meeting> meeting = detail::Meeting::from_environment();
    if (!meeting) return {};
    return World(meeting->local_rank, meeting->local_size,
                 Group<Cpu>(Cpu(1), std::make_shared<TcpWire>(*meeting)));
  }

  /// This process's number, from 0. Rank 0 prints and writes.
  int rank() const { return host_.rank(); }
  /// Processes of the run.
  int size() const { return host_.size(); }
  /// This process's number among those of its machine: the GPU that it takes.
  int local_rank() const { return local_rank_; }
  /// Processes on this machine.
  int local_size() const { return local_size_; }
  /// Moves bytes of the host between them.
  const Group<Cpu>& host() const { return host_; }

  /// What every rank gave, in their order; texts may differ in length.
  std::vector<std::string> exchange(std::string_view own) const {
    const auto ranks = static_cast<std::size_t>(size());
    const std::uint64_t length = own.size();
    std::vector<std::uint64_t> lengths(ranks);
    host_.all_gather(&length, lengths.data(), sizeof length);
    const std::size_t longest = *std::max_element(lengths.begin(), lengths.end());
    std::string padded(own), all(ranks * longest, '\0');
    padded.resize(longest);
    host_.all_gather(padded.data(), all.data(), longest);
    std::vector<std::string> texts;
    for (std::size_t rank = 0; rank < ranks; ++rank)
      texts.push_back(all.substr(rank * longest, static_cast<std::size_t>(lengths[rank])));
    return texts;
  }

  /// Throws ConfigError, on every rank, unless all give the same text: the first line in which another rank
  /// differs from rank 0 is named. what: what the text is, for people
  void require_same(std::string_view what, std::string_view own) const {
    const std::vector<std::string> all = exchange(own);
    const auto other =
        std::find_if(all.begin(), all.end(), [&](const std::string& text) { return text != all[0]; });
    if (other == all.end()) return;
    const auto [mine, theirs] = detail::first_difference(all[0], *other);
    throw ConfigError(cat("[world] rank ", other - all.begin(), " has another ", what,
                          " than rank 0: ", theirs, " instead of ", mine));
  }

 private:
  int local_rank_ = 0, local_size_ = 1;
  Group<Cpu> host_;
};

}  // namespace mtpx
