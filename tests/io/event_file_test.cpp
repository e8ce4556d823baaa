#include <mtpx/io/event_file.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <sys/resource.h>

#include <csignal>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <string_view>
#include <vector>

using namespace mtpx;
using mtpx_test::Folder;
namespace fs = std::filesystem;

namespace {

/// CRC-32C bit by bit, as its definition has it: the remainder of a division of polynomials.
std::uint32_t slow_crc(std::string_view text) {
  std::uint32_t rest = 0xffffffffU;
  for (const char c : text) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      const bool in = ((static_cast<unsigned char>(c) >> bit) & 1U) != 0;
      const bool out = (rest >> 31U) != 0;
      rest <<= 1U;
      if (in != out) rest ^= 0x1edc6f41U;
    }
  }
  std::uint32_t mirrored = 0;
  for (unsigned bit = 0; bit < 32; ++bit) mirrored |= ((~rest >> bit) & 1U) << (31U - bit);
  return mirrored;
}

/// Takes a text apart from the front.
struct Bytes {
  std::string_view rest;

  std::string_view take(std::size_t count) {
    REQUIRE(rest.size() >= count);
    const std::string_view front = rest.substr(0, count);
    rest.remove_prefix(count);
    return front;
  }
  template <typename V>
  V plain() {
    V value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7fU) << shift;
      if (byte < 0x80) return value;
    }
    FAIL("a varint of more than ten bytes");
    return 0;
  }
};

/// The fields of a message, each as its bytes: what is behind the length, or the number's own.
std::multimap<std::uint64_t, std::string_view> fields(std::string_view message) {
  std::multimap<std::uint64_t, std::string_view> all;
  Bytes bytes{message};
  while (!bytes.rest.empty()) {
    const std::uint64_t key = bytes.varint();
    const std::string_view from = bytes.rest;
    std::string_view value;
    switch (key & 7U) {
      case 0:
        bytes.varint(), value = from.substr(0, from.size() - bytes.rest.size());
        break;
      case 1:
        value = bytes.take(8);
        break;
      case 2:
        value = bytes.take(bytes.varint());
        break;
      case 5:
        value = bytes.take(4);
        break;
      default:
        FAIL("wire type " << (key & 7U));
    }
    all.emplace(key >> 3U, value);
  }
  return all;
}

struct Event {
  std::int64_t step = 0;
  double time = 0;
  std::string version, tag;
  float value = 0;
  std::uint64_t session = 0;
};

std::vector<Event> events(std::string_view file) {
  std::vector<Event> all;
  Bytes bytes{file};
  const auto check = [](std::string_view text, std::uint32_t masked) {
    const std::uint32_t turned = masked - 0xa282ead8U;
    CHECK((turned >> 17U | turned << 15U) == slow_crc(text));
  };
  while (!bytes.rest.empty()) {
    const std::string_view head = bytes.rest.substr(0, 8);
    const auto length = bytes.plain<std::uint64_t>();
    check(head, bytes.plain<std::uint32_t>());
    const std::string_view message = bytes.take(length);
    check(message, bytes.plain<std::uint32_t>());
    Event& event = all.emplace_back();
    for (const auto& [field, value] : fields(message)) {
      if (field == 1) event.time = Bytes{value}.plain<double>();
      if (field == 2) event.step = static_cast<std::int64_t>(Bytes{value}.varint());
      if (field == 3) event.version = value;
      if (field == 7) event.session = Bytes{fields(value).find(1)->second}.varint();
      if (field != 5) continue;
      const auto summary = fields(value);
      REQUIRE(summary.size() == 1);
      const auto one = fields(summary.find(1)->second);
      event.tag = one.find(1)->second;
      event.value = Bytes{one.find(2)->second}.plain<float>();
    }
  }
  return all;
}

std::uint32_t crc_of(std::string_view text, std::uint32_t before = 0) {
  return crc32c(std::as_bytes(std::span(text)), before);
}

}  // namespace

TEST_CASE("crc32c: the check value, RFC 3720's examples, in parts") {
  CHECK(crc_of("123456789") == 0xe3069283U);
  CHECK(crc_of("") == 0);
  CHECK(crc_of(std::string(32, '\0')) == 0x8a9136aaU);
  CHECK(crc_of(std::string(32, '\xff')) == 0x62a8ab43U);
  CHECK(crc_of("6789", crc_of("12345")) == 0xe3069283U);
  CHECK(slow_crc("123456789") == 0xe3069283U);
}

TEST_CASE("events: what is written is read back, a step and a tag each") {
  const Folder folder;
  const fs::path path = EventFile::name_in(folder.root);
  CHECK(path.filename().string().starts_with("events.out.tfevents."));
  {
    EventFile file(path);
    file.add(1, "loss/main", 5.5);
    file.add(300, "loss/depth_1", -0.1);
    file.add(std::int64_t{1} << 40, std::string(200, 't'), 1e30);
  }
  const std::vector<Event> all = events(folder.read(path.filename().string()));
  REQUIRE(all.size() == 4);
  CHECK(all[0].version == "brain.Event:2");
  CHECK(all[1].step == 1);
  CHECK(all[1].tag == "loss/main");
  CHECK(all[1].value == 5.5F);
  CHECK(all[1].time > 1.6e9);
  CHECK(all[2].step == 300);
  CHECK(all[2].tag == "loss/depth_1");
  CHECK(all[2].value == -0.1F);
  CHECK(all[3].step == std::int64_t{1} << 40);
  CHECK(all[3].tag == std::string(200, 't'));
  CHECK(all[3].value == 1e30F);
  for (const Event& event : all) CHECK(event.session == 0);
}

TEST_CASE("events: a run that is taken up again begins a file, which says from where") {
  const Folder folder;
  const fs::path first = EventFile::name_in(folder.root);
  EventFile(first).add(1, "a", 1);
  const fs::path second = EventFile::name_in(folder.root);
  CHECK(first.string() < second.string());
  EventFile(second, 20).add(21, "a", 2);
  const std::vector<Event> all = events(folder.read(second.filename().string()));
  REQUIRE(all.size() == 3);
  CHECK(all[1].session ==
        1);  // SessionLog.START: later events of other files are forgotten from this step on
  CHECK(all[1].step == 21);
  CHECK(all[2].step == 21);
}

TEST_CASE("events: errors name the file") {
  const Folder folder;
  folder.write("there", "x");
  CHECK(folder.error([&] { EventFile(folder.root / "there"); }) ==
        "[events] there: cannot be created: File exists");
  CHECK(folder.read("there") == "x");
  CHECK(folder.error([&] { EventFile(folder.root / "no" / "a"); }) ==
        "[events] no/a: cannot be created: No such file or directory");

  rlimit old{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &old) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  EventFile file(folder.root / "full");  // 42 bytes
  const rlimit small{50, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &small);
  const std::string part = folder.error([&] { file.add(1, "a", 1); });
  const std::string none = folder.error([&] { file.add(2, "a", 1); });
  ::setrlimit(RLIMIT_FSIZE, &old);
  std::signal(SIGXFSZ, handler);
  CHECK(part == "[events] full: cannot be written: 8 of 39 bytes of an event fitted");
  CHECK(none == part);
  file.add(3, "a", 1);  // there is room again
  const std::vector<Event> all = events(folder.read("full"));
  REQUIRE(all.size() == 2);
  CHECK(all[1].step == 3);
}
