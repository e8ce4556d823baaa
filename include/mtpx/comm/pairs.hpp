#pragma once
// Collectives out of messages between two ranks, for wires that have nothing better.

#include <mtpx/comm/transfer.hpp>
#include <mtpx/core/device.hpp>

#include <cstddef>
#include <vector>

namespace mtpx::detail {

/// Part `rank` of [size, bytes].
inline std::byte* part_of(void* parts, int rank, std::size_t bytes) {
  return static_cast<std::byte*>(parts) + static_cast<std::size_t>(rank) * bytes;
}
inline const std::byte* part_of(const void* parts, int rank, std::size_t bytes) {
  return static_cast<const std::byte*>(parts) + static_cast<std::size_t>(rank) * bytes;
}

/// To and from every other rank; the next one first, so that not all begin with the same.
template <typename Wire, typename Sent, typename Received>
std::vector<Transfer> pairs(const Wire& wire, std::size_t bytes, const Sent& sent, const Received& received) {
  std::vector<Transfer> all;
  for (int ahead = 1; ahead < wire.size(); ++ahead) {
    const int to = (wire.rank() + ahead) % wire.size(),
              from = (wire.rank() + wire.size() - ahead) % wire.size();
    all.push_back(Transfer::receive(from, received(from), bytes));
    all.push_back(Transfer::send(to, sent(to), bytes));
  }
  return all;
}

/// See HasCollectives.
template <typename Wire, typename D>
void all_to_all_by_pairs(Wire& wire, const D& device, const void* from, void* to, std::size_t bytes) {
  copy_on_device(device, part_of(to, wire.rank(), bytes), part_of(from, wire.rank(), bytes), bytes);
  wire.send_receive(device, pairs(
                                wire, bytes, [&](int peer) { return part_of(from, peer, bytes); },
                                [&](int peer) { return part_of(to, peer, bytes); }));
}
/// See HasCollectives.
template <typename Wire, typename D>
void all_gather_by_pairs(Wire& wire, const D& device, const void* from, void* to, std::size_t bytes) {
  std::byte* const own = part_of(to, wire.rank(), bytes);
  if (own != from) copy_on_device(device, own, from, bytes);
  wire.send_receive(device, pairs(
                                wire, bytes, [&](int) { return from; },
                                [&](int peer) { return part_of(to, peer, bytes); }));
}

/// See Group::gather_blocks(): all blocks at once.
template <typename Wire, typename D>
void gather_blocks_by_pairs(Wire& wire, const D& device, void* memory, std::size_t blocks,
                            std::size_t bytes) {
  std::vector<Transfer> all;
  for (std::size_t i = 0; i < blocks; ++i) {
    std::byte* const block = part_of(memory, wire.size(), i * bytes);
    const auto part = [&](int rank) { return part_of(block, rank, bytes); };
    const auto of_block = pairs(
        wire, bytes, [&](int) { return part(wire.rank()); }, part);
    all.insert(all.end(), of_block.begin(), of_block.end());
  }
  wire.send_receive(device, all);
}

}  // namespace mtpx::detail
