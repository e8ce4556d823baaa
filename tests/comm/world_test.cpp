#include <mtpx/comm/world.hpp>

#include "support/group_checks.hpp"
#include "support/model.hpp"
#include "support/thread_ranks.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/comm/");

namespace {

/// A free port of this machine, for the moment.
int free_port() {
  const detail::Socket any(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(any.get(), reinterpret_cast<sockaddr*>(&place), sizeof place) == 0);
  socklen_t size = sizeof place;
  REQUIRE(::getsockname(any.get(), reinterpret_cast<sockaddr*>(&place), &size) == 0);
  return ntohs(place.sin_port);
}

/// Runs work(World) on `size` threads that meet by TCP. Returns what each threw, "" for nothing.
template <typename Work>
std::vector<std::string> in_worlds(int size, const Work& work, int told_size = 0) {
  const int port = free_port();
  std::vector<std::string> errors(static_cast<std::size_t>(size));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      errors[static_cast<std::size_t>(rank)] = error_text<Error>([&] {
        const int told = rank == size - 1 && told_size > 0 ? told_size : size;
        const detail::Meeting meeting{rank, told, rank, size, "127.0.0.1", port, 5};
        work(World(rank, size, Group<Cpu>(Cpu(1), std::make_shared<TcpWire>(meeting))));
      });
    });
  }
  for (std::thread& thread : threads) thread.join();
  return errors;
}

}  // namespace

TEST_CASE("Group: of one, by threads, by TCP: bytes go where they belong") {
  check_group(Group<Cpu>(Cpu(1)));
  for (const int size : {2, 3, 4}) {
    CAPTURE(size);
    on_ranks(
        size, [] { return Cpu(1); }, [](const Group<Cpu>& group) { check_group(group); });
    for (const std::string& error : in_worlds(size, [](const World& world) { check_group(world.host()); }))
      CHECK(error == "");
  }
}

TEST_CASE("Group: a peer that there is not, or itself, is an error") {
  const Group<Cpu> alone{Cpu(1)};
  char byte = 0;
  CHECK(error_text<Error>([&] { alone.send_receive(std::vector{Transfer::send(0, &byte, 1)}); }) ==
        "[group] rank 0 of 1 has no peer 0");
  CHECK(error_text<Error>([&] { alone.send_receive(std::vector{Transfer::receive(3, &byte, 1)}); }) ==
        "[group] rank 0 of 1 has no peer 3");
}

TEST_CASE("World: texts of any length are exchanged; others' are told apart") {
  const auto errors = in_worlds(3, [](const World& world) {
    const std::string own(static_cast<std::size_t>(10 * world.rank()), static_cast<char>('a' + world.rank()));
    CHECK(world.exchange(own) == std::vector<std::string>{"", std::string(10, 'b'), std::string(20, 'c')});
    world.require_same("text", "x\ny\n");
    world.require_same("configuration", world.rank() < 2 ? "steps 3\nlr 0.1\n" : "steps 3\nlr 0.2\n");
  });
  for (const std::string& error : errors)
    CHECK(error == "[world] rank 2 has another configuration than rank 0: 'lr 0.2' instead of 'lr 0.1'");
  CHECK(World().exchange("alone") == std::vector<std::string>{"alone"});
  World().require_same("text", "alone");
}

TEST_CASE("World: whoever is gone is named; so are another size of the world and other messages") {
  auto errors = in_worlds(3, [](const World& world) {
    if (world.rank() == 1) return;
    while (true) world.host().barrier();
  });
  CHECK(errors[0] == "[world] rank 1 is gone: its connection is closed");
  CHECK(errors[1] == "");

  errors = in_worlds(
      2, [](const World&) {}, 4);
  CHECK(errors[0] == "[world] WORLD_SIZE is 2 on rank 0 and 4 on rank 1");
  CHECK(errors[1] == "[world] rank 0 is gone: its connection is closed");

  errors = in_worlds(2, [](const World& world) {
    Bytes from(8), to(16);
    world.host().all_gather(from.data(), to.data(), world.rank() == 0 ? 8 : 4);
  });
  CHECK((errors[0].find("rank 1 sends 4 bytes where rank 0 expects 8") != std::string::npos ||
         errors[1].find("rank 0 sends 8 bytes where rank 1 expects 4") != std::string::npos));
}

TEST_CASE("World: strangers who connect are sent away") {
  const int port = free_port();
  std::string errors[2];
  std::thread leader([&] {
    errors[0] = error_text<Error>([&] { TcpWire(detail::Meeting{0, 2, 0, 2, "127.0.0.1", port, 10}); });
  });
  sockaddr_in place{};
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<std::uint16_t>(port));
  place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int stranger = 0; stranger < 2;) {
    const detail::Socket one(::socket(AF_INET, SOCK_STREAM, 0));
    if (::connect(one.get(), reinterpret_cast<sockaddr*>(&place), sizeof place) != 0) continue;
    const std::string words(stranger == 0 ? 0 : 100, 'x');
    if (!words.empty()) CHECK(::send(one.get(), words.data(), words.size(), MSG_NOSIGNAL) == 100);
    ++stranger;
  }
  errors[1] = error_text<Error>([&] { TcpWire(detail::Meeting{1, 2, 1, 2, "127.0.0.1", port, 10}); });
  leader.join();
  CHECK(errors[0] == "");
  CHECK(errors[1] == "");
}

TEST_CASE("World: the environment's variables are checked") {
  const auto meeting = [](std::map<std::string, std::string> variables) {
    const char* const names[] = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"};
    for (const char* name : names) ::unsetenv(name);
    for (const auto& [name, value] : variables) ::setenv(name.c_str(), value.c_str(), 1);
    const auto found = detail::Meeting::from_environment();
    for (const char* name : names) ::unsetenv(name);
    return found;
  };
  CHECK(!meeting({}));
  CHECK(!meeting({{"WORLD_SIZE", "1"}}));
  const auto found =
      meeting({{"WORLD_SIZE", "4"}, {"RANK", "3"}, {"LOCAL_RANK", "1"}, {"MASTER_PORT", "99"}});
  REQUIRE(found);
  CHECK(found->size == 4);
  CHECK(found->rank == 3);
  CHECK(found->local_rank == 1);
  CHECK(found->port == 99);
  CHECK(error_text<ConfigError>([&] {
          meeting({{"WORLD_SIZE", "4"}});
        }) == "[world] WORLD_SIZE is set and RANK is not");
  CHECK(error_text<ConfigError>([&] {
          meeting({{"WORLD_SIZE", "4"}, {"RANK", "4"}});
        }) == "[world] RANK = '4': a whole number from 0 to 3 is expected");
  CHECK(error_text<ConfigError>([&] {
          meeting({{"WORLD_SIZE", "no"}});
        }) == "[world] WORLD_SIZE = 'no': a whole number from 1 to 1048575 is expected");
}

TEST_SUITE_END();
