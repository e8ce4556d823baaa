#include <mtpx/core/cpu.hpp>

#include <doctest/doctest.h>

#include <cstring>

using mtpx::Buffer;
using mtpx::Cpu;

TEST_CASE("cpu: copies of a handle are the same device") {
  const Cpu cpu(3);
  const Cpu copy = cpu;
  CHECK(copy.threads() == 3);
  CHECK(&copy.pool() == &cpu.pool());
  copy.set_threads(2);
  CHECK(cpu.threads() == 2);
  const Buffer buffer(copy.pool(), 64);
  CHECK(cpu.pool().bytes_in_use() == 64);
}

TEST_CASE("cpu: two handles made separately share nothing") {
  const Cpu a(1);
  const Cpu b(2);
  CHECK(&a.pool() != &b.pool());
  a.set_threads(4);
  CHECK(b.threads() == 2);
  const Buffer buffer(a.pool(), 64);
  CHECK(b.pool().bytes_in_use() == 0);
}

TEST_CASE("cpu: no number of threads means all processors") {
  const Cpu all;
  CHECK(all.threads() >= 1);
  const Cpu cpu(1);
  cpu.set_threads(0);
  CHECK(cpu.threads() == all.threads());
  cpu.set_threads(-5);
  CHECK(cpu.threads() == all.threads());
}

TEST_CASE("cpu: bytes are copied and cleared exactly") {
  const Cpu cpu(1);
  const char text[8] = "abcdefg";
  char a[8] = "-------", b[8] = "-------", c[8] = "-------";
  copy_to_device(cpu, a, text, 3);
  CHECK(std::string_view(a) == "abc----");
  copy_on_device(cpu, b + 1, text, 2);
  CHECK(std::string_view(b) == "-ab----");
  copy_to_host(cpu, c + 6, text, 1);
  CHECK(std::string_view(c) == "------a");
  set_zero(cpu, a + 1, 2);
  CHECK(std::memcmp(a, "a\0\0----", 8) == 0);

  // No bytes need no address.
  copy_to_device(cpu, nullptr, nullptr, 0);
  copy_to_host(cpu, nullptr, nullptr, 0);
  copy_on_device(cpu, nullptr, nullptr, 0);
  set_zero(cpu, nullptr, 0);
}
