#pragma once
// What every wire must do.

#include <mtpx/comm/group.hpp>
#include <mtpx/core/cpu.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

namespace mtpx::test {

using Bytes = std::vector<unsigned char>;

/// What rank `from` has for rank `to`.
inline Bytes message(int from, int to, std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i)
    bytes[i] = static_cast<unsigned char>(7 * i + 31 * static_cast<std::size_t>(from) +
                                          static_cast<std::size_t>(to));
  return bytes;
}
inline void append(Bytes& all, const Bytes& more) { all.insert(all.end(), more.begin(), more.end()); }

/// All that a group of any wire must do, with messages of several sizes.
inline void check_group(const Group<Cpu>& group) {
  const int rank = group.rank(), size = group.size();
  for (const std::size_t n : {0U, 1U, 1000U, 3000000U}) {
    Bytes from, want;
    for (int peer = 0; peer < size; ++peer) {
      append(from, message(rank, peer, n));
      append(want, message(peer, rank, n));
    }
    Bytes to(from.size());
    group.all_to_all(from.data(), to.data(), n);
    CHECK(to == want);

    const Bytes own = message(rank, 5, n);
    want.clear();
    for (int peer = 0; peer < size; ++peer) append(want, message(peer, 5, n));
    std::fill(to.begin(), to.end(), static_cast<unsigned char>(0));
    group.all_gather(own.data(), to.data(), n);
    CHECK(to == want);

    std::fill(to.begin(), to.end(), static_cast<unsigned char>(0));
    unsigned char* const place = to.data() + static_cast<std::size_t>(rank) * n;
    std::copy(own.begin(), own.end(), place);
    group.all_gather(place, to.data(), n);
    CHECK(to == want);

    // A ring, two messages each way, the second larger than the first; every rank sends before it receives.
    if (size == 1) continue;
    const int next = (rank + 1) % size, last = (rank + size - 1) % size;
    const Bytes first = message(rank, next, n), second = message(rank, next, n + 9),
                back = message(rank, last, n);
    Bytes got_first(n), got_second(n + 9), got_back(n);
    const std::vector<Transfer> ring{
        Transfer::send(next, first.data(), n), Transfer::send(next, second.data(), n + 9),
        Transfer::receive(last, got_first.data(), n), Transfer::receive(last, got_second.data(), n + 9)};
    group.send_receive(ring);
    CHECK(got_first == message(last, rank, n));
    CHECK(got_second == message(last, rank, n + 9));
    group.send_receive(
        std::vector{Transfer::send(last, back.data(), n), Transfer::receive(next, got_back.data(), n)});
    CHECK(got_back == message(next, rank, n));
    group.check();
    group.barrier();
  }
}

}  // namespace mtpx::test
