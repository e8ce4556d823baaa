#pragma once
// What goes from one rank to another.

#include <cstddef>

namespace mtpx {

/// One message of an exchange between two ranks. Those of two ranks are matched in the order in which they
/// stand.
struct Transfer {
  int peer = 0;                ///< the other rank
  bool sends = false;          ///< to the peer, or from it
  const void* from = nullptr;  ///< what is sent stands here
  void* to = nullptr;          ///< what is received goes here
  std::size_t bytes = 0;       ///< the same on both sides

  /// A message to `peer`.
  static Transfer send(int peer, const void* from, std::size_t bytes) {
    return {peer, true, from, nullptr, bytes};
  }
  /// A message from `peer`.
  static Transfer receive(int peer, void* to, std::size_t bytes) { return {peer, false, nullptr, to, bytes}; }
};

}  // namespace mtpx
