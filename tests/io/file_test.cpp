#include <mtpx/io/file.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

using namespace mtpx;
using mtpx_test::Folder;
namespace fs = std::filesystem;

TEST_CASE("file: only regular files are read") {
  const Folder folder;
  const auto opening = [&](const fs::path& path) { return folder.error([&] { InputFile("test", path); }); };
  CHECK(opening(folder.root / "none") == "[test] none: cannot be opened: No such file or directory");
  CHECK(folder.error([&] { InputFile("test", folder.root); }) ==
        "[test] " + folder.root.string() + ": is not a regular file");
  CHECK(opening("/dev/zero") == "[test] /dev/zero: is not a regular file");
  REQUIRE(::mkfifo((folder.root / "pipe").c_str(), 0600) == 0);
  CHECK(opening(folder.root / "pipe") == "[test] pipe: is not a regular file");  // and does not wait
  fs::create_symlink("loop", folder.root / "loop");
  CHECK(opening(folder.root / "loop") == "[test] loop: cannot be opened: Too many levels of symbolic links");
  fs::create_symlink("file", folder.root / "link");
  folder.write("file", "text");
  CHECK(InputFile("test", folder.root / "link").read_text(4) == "text");
}

TEST_CASE("file: reading past the end and beyond the limit") {
  const Folder folder;
  const InputFile file("test", folder.write("file", "0123456789"));
  CHECK(file.size() == 10);
  std::vector<std::byte> bytes(4);
  file.read(6, bytes);
  CHECK(bytes[3] == std::byte{'9'});
  CHECK(folder.error([&] { file.read(8, bytes); }) ==
        "[test] file: ends at byte 10; 2 more bytes were expected");
  CHECK(folder.error([&] { file.read_text(9); }) == "[test] file: has 10 bytes; at most 9 are read");
  fs::resize_file(folder.root / "file", 3);
  CHECK(folder.error([&] { file.check_size(); }) ==
        "[test] file: has shrunk from 10 to 3 bytes while it was in use");
}

TEST_CASE("file: a written file appears whole, or not at all") {
  const Folder folder;
  folder.write("file", "old");
  {
    OutputFile file("test", folder.root / "file");
    file.write("new");
    CHECK(folder.read("file") == "old");
    CHECK(folder.files() == 2);
  }
  CHECK(folder.read("file") == "old");  // never committed: nothing happened
  CHECK(folder.files() == 1);

  OutputFile first("test", folder.root / "file"), second("test", folder.root / "file");
  first.write("first");
  second.write("second");
  first.commit();
  CHECK(folder.read("file") == "first");
  second.commit();
  CHECK(folder.read("file") == "second");
  CHECK(folder.files() == 1);
}

TEST_CASE("file: bytes are written again in their place, and no others") {
  const Folder folder;
  OutputFile file("test", folder.root / "file");
  file.write("0123456789");
  const std::string again = "ab";
  file.rewrite(8, std::as_bytes(std::span(again)));
  CHECK(folder.error([&] { file.rewrite(9, std::as_bytes(std::span(again))); }) ==
        "[test] file: has 10 bytes; 2 from byte 9 on cannot be written again");
  file.write("c");
  file.commit();
  CHECK(folder.read("file") == "01234567abc");
}

TEST_CASE("file: a failed write leaves the old file and nothing else") {
  const Folder folder;
  folder.write("file", "old");
  CHECK(folder.error([&] { OutputFile("test", folder.root / "none" / "file"); }) ==
        "[test] none/file: cannot be created: No such file or directory");
  CHECK(folder.error([&] { OutputFile("test", folder.root / "file" / "file"); }) ==
        "[test] file/file: cannot be created: Not a directory");

  // Only regular files are replaced.
  fs::create_directory(folder.root / "folder");
  REQUIRE(::mkfifo((folder.root / "pipe").c_str(), 0600) == 0);
  for (const std::string name : {"folder", "pipe"})
    CHECK(folder.error([&] { OutputFile("test", folder.root / name); }) ==
          "[test] " + name + ": is not a regular file, and is not replaced");
  CHECK(folder.error([&] { OutputFile("test", "/dev/null"); }) ==
        "[test] /dev/null: is not a regular file, and is not replaced");
  fs::remove(folder.root / "pipe");
  CHECK(folder.files() == 2);

  // A file system that is full, as a limit on file sizes.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  const std::string text = folder.error([&] {
    OutputFile file("test", folder.root / "file");
    file.write(std::string(10000, 'x'));
    file.commit();
  });
  ::setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(text == "[test] file: cannot be written, 5904 bytes were left: File too large");
  CHECK(folder.read("file") == "old");
  CHECK(folder.files() == 2);
}

TEST_CASE("file: what killed processes left half written is removed, and nothing else") {
  const Folder folder;
  const pid_t gone = ::fork();
  if (gone == 0) ::_exit(0);
  REQUIRE(::waitpid(gone, nullptr, 0) == gone);
  const std::string dead = cat(".tmp-", gone), mine = cat(".tmp-", ::getpid()),
                    other = cat(".tmp-", ::getppid());
  const std::vector<std::string> names{
      "a" + dead,         "b" + dead + "-7", "c" + mine + "-0", "d" + other, "e" + dead + "x",
      "f" + dead + "-",   "g.tmp-",          "h.tmp--5",        dead,        "i" + dead + "-1-2",
      "model.safetensors"};
  for (const std::string& name : names) folder.write(name, "text");
  fs::create_directory(folder.root / ("step_5" + dead));
  folder.write("step_5" + dead + "/file", "text");

  std::vector<std::string> removed;
  for (const fs::path& path : remove_stale(folder.root)) removed.push_back(path.filename().string());
  CHECK(removed == std::vector{"a" + dead, "b" + dead + "-7", "c" + mine + "-0", "step_5" + dead});
  CHECK(folder.files() == 8);
  CHECK(remove_stale(folder.root).empty());
  CHECK(remove_stale(folder.root / "none").empty());
}
