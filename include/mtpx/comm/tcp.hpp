#pragma once
// Ranks that meet at an address: sockets of the system, no library.

#include <mtpx/comm/group.hpp>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// Where the ranks of a run meet, and which of them this is.
struct Meeting {
  int rank = 0, size = 1, local_rank = 0, local_size = 1;
  std::string address = "127.0.0.1";
  int port = 0;
  int patience = 60;  // seconds for all to come

  /// Whether all ranks are on one machine, by the address.
  bool of_this_machine() const { return address == "localhost" || address.starts_with("127."); }

  /// torchrun's variables; nothing where WORLD_SIZE is not set, or 1. Throws ConfigError.
  static std::optional<Meeting> from_environment() {
    const auto number = [](const char* name, long least, long end) {
      const char* const text = std::getenv(name);
      if (text == nullptr) throw ConfigError(cat("[world] WORLD_SIZE is set and ", name, " is not"));
      long value = 0;
      const std::string_view all = text;
      const auto [last, failed] = std::from_chars(all.data(), all.data() + all.size(), value);
      if (failed != std::errc{} || last != all.data() + all.size() || value < least || value >= end)
        throw ConfigError(cat("[world] ", name, " = '", all, "': a whole number from ", least, " to ",
                              end - 1, " is expected"));
      return static_cast<int>(value);
    };
    if (std::getenv("WORLD_SIZE") == nullptr) return {};
    Meeting all;
    all.size = number("WORLD_SIZE", 1, 1 << 20);
    if (all.size == 1) return {};
    all.rank = number("RANK", 0, all.size);
    all.local_rank = std::getenv("LOCAL_RANK") == nullptr ? all.rank : number("LOCAL_RANK", 0, all.size);
    all.local_size =
        std::getenv("LOCAL_WORLD_SIZE") == nullptr ? 1 : number("LOCAL_WORLD_SIZE", 1, all.size + 1);
    all.port = number("MASTER_PORT", 1, 65535);
    if (const char* const address = std::getenv("MASTER_ADDR")) all.address = address;
    // torchrun itself listens at the port then.
    if (const char* const agent = std::getenv("TORCHELASTIC_USE_AGENT_STORE");
        agent != nullptr && *agent == 'T')
      ++all.port;
    return all;
  }
};

/// The first line in which two texts differ, of each.
inline std::pair<std::string, std::string> first_difference(std::string_view a, std::string_view b) {
  const auto line = [](std::string_view& text) {
    const std::string_view first = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(text.size(), first.size() + 1));
    return first;
  };
  while (!a.empty() || !b.empty()) {
    const std::string_view of_a = line(a), of_b = line(b);
    if (of_a != of_b) return {cat('\'', of_a, '\''), cat('\'', of_b, '\'')};
  }
  return {};
}

/// A socket that is closed with its owner.
class Socket {
 public:
  Socket() = default;
  explicit Socket(int descriptor) : descriptor_(descriptor) {}
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~Socket() {
    if (descriptor_ >= 0) (void)::close(descriptor_);
  }
  int get() const { return descriptor_; }
  bool open() const { return descriptor_ >= 0; }

 private:
  int descriptor_ = -1;
};

}  // namespace detail

/// A connection between every two ranks, for devices with the host's memory. Ranks find each other at rank
/// 0's address. A message says its size first, so that ranks that do not do the same are told so. Whoever is
/// gone, however, has a closed connection: the others throw CommError that names the rank.
class TcpWire {
 public:
  /// Waits for all. Throws CommError where they do not come, or are of another run.
  explicit TcpWire(const detail::Meeting& meeting)
      : rank_(meeting.rank), size_(meeting.size), peers_(static_cast<std::size_t>(meeting.size)) {
    deadline_ = Clock::now() + std::chrono::seconds(meeting.patience);
    const detail::Socket door = listen(rank_ == 0 ? meeting.port : 0, meeting.of_this_machine());
    std::vector<Place> places(static_cast<std::size_t>(size_));
    if (rank_ == 0) {
      for (int others = 1; others < size_; ++others) accept(door, &places);
      for (int peer = 1; peer < size_; ++peer)
        put(socket(peer), places.data(), places.size() * sizeof(Place), peer);
    } else {
      greet(meeting.address, meeting.port, 0, port_of(door));
      get(socket(0), places.data(), places.size() * sizeof(Place), 0);
      for (int peer = 1; peer < rank_; ++peer) greet(places[static_cast<std::size_t>(peer)], peer);
      for (int others = rank_ + 1; others < size_; ++others) accept(door, nullptr);
    }
  }

  /// This process's number, from 0.
  int rank() const { return rank_; }
  /// Processes of the run.
  int size() const { return size_; }

  /// See HasCollectives, also for the following.
  template <HostMemory D>
  void all_to_all(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_to_all_by_pairs(*this, device, from, to, bytes);
  }
  /// Every rank's part to all.
  template <HostMemory D>
  void all_gather(const D& device, const void* from, void* to, std::size_t bytes) {
    detail::all_gather_by_pairs(*this, device, from, to, bytes);
  }
  /// All at once: whichever connection can take or give bytes does.
  template <HostMemory D>
  void send_receive(const D&, std::span<const Transfer> transfers) {
    exchange(transfers);
  }
  /// A message of no bytes to and from all.
  template <HostMemory D>
  void barrier(const D&) {
    exchange(detail::pairs(
        *this, 0, [](int) { return nullptr; }, [](int) { return nullptr; }));
  }
  /// Looks at every connection.
  template <HostMemory D>
  void check(const D&) {
    for (int peer = 0; peer < size_; ++peer) {
      char byte = 0;
      if (peer == rank_) continue;
      const ssize_t got = ::recv(socket(peer).get(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
      if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) gone(peer);
    }
  }

 private:
  using Clock = std::chrono::steady_clock;
  /// An address of the internet, in the system's form; as large as any.
  using Place = sockaddr_storage;
  /// What a rank says to one that it connects to.
  struct Greeting {
    std::uint64_t magic = 0x6d747078'31000001;
    std::int32_t rank = 0, size = 0;
    std::uint16_t port = 0;  // in the net's order
    std::uint16_t unused[3] = {};
  };
  struct Peer {
    detail::Socket socket;
  };
  /// What is left of a message: its size, then its bytes.
  struct Stream {
    std::deque<const Transfer*> messages;
    std::uint64_t length = 0;  // of the first message, once it is known
    std::size_t header = 0, done = 0;
  };

  const detail::Socket& socket(int peer) const { return peers_[static_cast<std::size_t>(peer)].socket; }

  [[noreturn]] static void gone(int peer) {
    throw CommError(cat("[world] rank ", peer, " is gone: its connection is closed"));
  }
  [[noreturn]] void late(const std::string& whom) const {
    throw CommError(cat("[world] rank ", rank_, " of ", size_, ": ", whom));
  }
  /// Waits until a socket is ready, or it is too late.
  void wait(const detail::Socket& of, short events, const char* whom) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline_ - Clock::now()).count();
    pollfd one{of.get(), events, 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::max<std::int64_t>(0, left)));
    if (ready == 0) late(whom);
  }

  /// inside: for connections of this machine alone
  static detail::Socket listen(int port, bool inside) {
    detail::Socket door(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int yes = 1;
    (void)::setsockopt(door.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    sockaddr_in any{};
    any.sin_family = AF_INET;
    any.sin_port = htons(static_cast<std::uint16_t>(port));
    any.sin_addr.s_addr = htonl(inside ? INADDR_LOOPBACK : INADDR_ANY);
    if (!door.open() || ::bind(door.get(), reinterpret_cast<sockaddr*>(&any), sizeof any) != 0 ||
        ::listen(door.get(), SOMAXCONN) != 0)
      throw CommError(cat("[world] port ", port, ": cannot be listened at: ", std::strerror(errno)));
    return door;
  }
  static std::uint16_t port_of(const detail::Socket& door) {
    sockaddr_in own{};
    socklen_t size = sizeof own;
    (void)::getsockname(door.get(), reinterpret_cast<sockaddr*>(&own), &size);
    return own.sin_port;
  }

  /// Takes in one rank. places: where the others will find it, unless they know
  void accept(const detail::Socket& door, std::vector<Place>* places) {
    Place place{};
    detail::Socket one;
    Greeting greeting;
    while (true) {
      wait(door, POLLIN, "the other ranks do not come");
      socklen_t length = sizeof place;
      one = detail::Socket(::accept4(door.get(), reinterpret_cast<sockaddr*>(&place), &length, SOCK_CLOEXEC));
      if (!one.open()) throw CommError(cat("[world] cannot be connected to: ", std::strerror(errno)));
      try {
        get(one, &greeting, sizeof greeting, -1);
      } catch (const CommError&) {
        continue;  // somebody else, who said nothing
      }
      if (greeting.magic == Greeting{}.magic) break;
    }
    if (greeting.size != size_)
      throw CommError(cat("[world] WORLD_SIZE is ", size_, " on rank ", rank_, " and ", greeting.size,
                          " on rank ", greeting.rank));
    if (greeting.rank <= rank_ || greeting.rank >= size_ || socket(greeting.rank).open())
      throw CommError(cat("[world] two processes are rank ", greeting.rank));
    if (places != nullptr) {
      reinterpret_cast<sockaddr_in&>(place).sin_port = greeting.port;
      (*places)[static_cast<std::size_t>(greeting.rank)] = place;
    }
    keep(greeting.rank, std::move(one));
  }

  void greet(const std::string& address, int port, int peer, std::uint16_t own_port) {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_INET;
    hints.ai_socktype = SOCK_STREAM;
    if (const int failed = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
        failed != 0)
      throw CommError(cat("[world] MASTER_ADDR = '", address, "': ", ::gai_strerror(failed)));
    Place place{};
    std::memcpy(&place, found->ai_addr, std::min<std::size_t>(sizeof place, found->ai_addrlen));
    ::freeaddrinfo(found);
    greet(place, peer, own_port);
  }
  /// Connects; again and again, for a rank may come later.
  void greet(const Place& place, int peer, std::uint16_t own_port = 0) {
    while (true) {
      detail::Socket one(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      if (::connect(one.get(), reinterpret_cast<const sockaddr*>(&place), sizeof(sockaddr_in)) == 0) {
        Greeting greeting;
        greeting.rank = rank_, greeting.size = size_, greeting.port = own_port;
        put(one, &greeting, sizeof greeting, peer);
        keep(peer, std::move(one));
        return;
      }
      if (Clock::now() > deadline_) late(cat("rank ", peer, " is not there: ", std::strerror(errno)));
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  }
  void keep(int peer, detail::Socket one) {
    const int yes = 1;
    (void)::setsockopt(one.get(), IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    peers_[static_cast<std::size_t>(peer)].socket = std::move(one);
  }

  /// All of it, while ranks meet.
  void put(const detail::Socket& to, const void* from, std::size_t bytes, int peer) const {
    for (std::size_t at = 0; at < bytes;) {
      const ssize_t sent = ::send(to.get(), static_cast<const char*>(from) + at, bytes - at, MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) gone(peer);
      at += static_cast<std::size_t>(sent);
    }
  }
  void get(const detail::Socket& from, void* to, std::size_t bytes, int peer) const {
    for (std::size_t at = 0; at < bytes;) {
      wait(from, POLLIN, "another rank does not answer: not all ranks have come");
      const ssize_t got = ::recv(from.get(), static_cast<char*>(to) + at, bytes - at, 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) gone(peer);
      at += static_cast<std::size_t>(got);
    }
  }

  /// Sends or receives what the connection takes now; whether the stream is at its end.
  bool advance(int peer, Stream& stream, bool sends) const {
    while (!stream.messages.empty()) {
      const Transfer& message = *stream.messages.front();
      if (sends) stream.length = message.bytes;
      const bool in_header = stream.header < sizeof stream.length;
      char* const header = reinterpret_cast<char*>(&stream.length) + stream.header;
      const std::size_t left = in_header ? sizeof stream.length - stream.header : message.bytes - stream.done;
      if (left > 0) {
        const ssize_t moved =
            sends ? ::send(socket(peer).get(),
                           in_header ? header : static_cast<const char*>(message.from) + stream.done, left,
                           MSG_NOSIGNAL | MSG_DONTWAIT)
                  : ::recv(socket(peer).get(),
                           in_header ? header : static_cast<char*>(message.to) + stream.done, left,
                           MSG_DONTWAIT);
        if (moved < 0 && errno == EINTR) continue;
        if (moved < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return false;
        if (moved <= 0) gone(peer);
        (in_header ? stream.header : stream.done) += static_cast<std::size_t>(moved);
        if (!sends && stream.header == sizeof stream.length && stream.length != message.bytes)
          throw CommError(cat("[world] rank ", peer, " sends ", stream.length, " bytes where rank ", rank_,
                              " expects ", message.bytes, ": they do not do the same"));
      }
      if (stream.header == sizeof stream.length && stream.done == message.bytes) {
        stream.messages.pop_front();
        stream.header = stream.done = 0;
      }
    }
    return true;
  }

  void exchange(std::span<const Transfer> transfers) {
    std::vector<Stream> out(peers_.size()), in(peers_.size());
    for (const Transfer& one : transfers)
      (one.sends ? out : in)[static_cast<std::size_t>(one.peer)].messages.push_back(&one);
    while (true) {
      std::vector<pollfd> waiting;
      for (int peer = 0; peer < size_; ++peer) {
        const auto i = static_cast<std::size_t>(peer);
        const bool sent = advance(peer, out[i], true), received = advance(peer, in[i], false);
        if (!sent || !received)
          waiting.push_back(
              {socket(peer).get(), static_cast<short>((sent ? 0 : POLLOUT) | (received ? 0 : POLLIN)), 0});
      }
      if (waiting.empty()) return;
      (void)::poll(waiting.data(), waiting.size(), -1);
    }
  }

  int rank_, size_;
  std::vector<Peer> peers_;
  Clock::time_point deadline_;
};

}  // namespace mtpx
