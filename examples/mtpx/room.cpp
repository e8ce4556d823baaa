#include "room.hpp"

#include "program.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>

namespace program {

namespace fs = std::filesystem;

namespace {

/// The number behind a word that begins a line; of a file with one number alone, the empty word's.
std::optional<std::size_t> number_in(const fs::path& file, const std::string& word) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(word)) continue;
    std::istringstream rest(line.substr(word.size()));
    std::size_t number = 0;
    if (rest >> number) return number;
    return {};  // "max": no limit
  }
  return {};
}

/// What a control group has left; cached files count as free, since they can go.
std::optional<std::size_t> left_in(const fs::path& group, const char* limit, const char* usage,
                                   const char* cached) {
  const auto most = number_in(group / limit, ""), used = number_in(group / usage, "");
  if (!most || !used) return {};
  const std::size_t taken = *used - std::min(*used, number_in(group / "memory.stat", cached).value_or(0));
  return *most - std::min(*most, taken);
}

/// Of the control groups of this process, version 2 or 1, and all above them, the least that is left.
std::optional<std::size_t> left_in_groups() {
  std::optional<std::size_t> least;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {  // 0::/a/b or 4:memory:/a/b
    const std::size_t colon = line.find(':'), second = line.find(':', colon + 1);
    if (second == line.npos) continue;
    const std::string kind = line.substr(colon + 1, second - colon - 1);
    const bool unified = kind.empty();
    if (!unified && kind != "memory") continue;
    const fs::path root = unified ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    for (fs::path below = fs::path(line.substr(second + 1)).relative_path();; below = below.parent_path()) {
      const auto left = unified ? left_in(root / below, "memory.max", "memory.current", "inactive_file ")
                                : left_in(root / below, "memory.limit_in_bytes", "memory.usage_in_bytes",
                                          "total_inactive_file ");
      if (left) least = std::min(least.value_or(*left), *left);
      if (below.empty()) break;
    }
  }
  return least;
}

std::size_t pages(int place) {
  std::ifstream in("/proc/self/statm");
  std::size_t number = 0;
  for (int i = 0; i <= place; ++i) in >> number;
  return number * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::optional<std::size_t> host_memory_free() {
  std::optional<std::size_t> least = number_in("/proc/meminfo", "MemAvailable:");
  if (least) *least *= 1024;
  if (const auto room = left_in_groups()) least = std::min(least.value_or(*room), *room);
  rlimit space{};
  if (::getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY) {
    const std::size_t most = space.rlim_cur, rest = most - std::min(most, pages(0));
    least = std::min(least.value_or(rest), rest);
  }
  return least;
}

std::size_t host_memory_peak() {
  rusage usage{};
  (void)::getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

std::size_t host_memory_now() { return pages(1); }

std::size_t disk_used(const fs::path& folder) {
  std::size_t sum = 0;
  std::error_code failed;
  for (fs::recursive_directory_iterator entry(folder, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code gone;
    const std::uintmax_t size = entry->is_regular_file(gone) ? entry->file_size(gone) : 0;
    if (!gone) sum += size;
  }
  return sum;
}

std::string size_text(std::size_t bytes) {
  const char* const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1024;
  return mtpx::cat(unit == 0 ? std::to_string(bytes) : fixed(value, value < 100 ? 1 : 0), ' ', units[unit]);
}

}  // namespace program
