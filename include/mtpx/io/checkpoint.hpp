#pragma once
// What a run goes on from, whatever ended it: a folder per step, which is there whole or not at all.
//
//   FOLDER/step-00000120/model.safetensors      and whatever other files the program puts there
//   FOLDER/step-00000120/checkpoint.json        written last: which files, with sizes and checksums
//   FOLDER/latest                               the name of the folder to go on from

#include <mtpx/io/checksum.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/io/snapshot.hpp>
#include <mtpx/version.hpp>

#include <sys/file.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <charconv>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace mtpx {

/// A checkpoint that has been read back and found whole.
struct Checkpoint {
  std::filesystem::path folder;  ///< where its files are
  Index step = 0;                ///< optimiser steps that led to it
  Json run;                      ///< what the program said of itself
};

/// Which checkpoints stay when a new one has been written. The newest always does.
struct CheckpointOptions {
  Index keep_last = 2;   ///< the newest so many, at least 1
  Index keep_every = 0;  ///< and those whose step is a multiple of it; 0: none
};

namespace detail {

inline constexpr Index checkpoint_format = 1;
inline constexpr std::string_view checkpoint_prefix = "step-";

/// Throws FileError where flush_folder() fails.
inline void flush_checkpoints(const std::filesystem::path& path) {
  if (!flush_folder(path.string()))
    throw FileError(cat("[checkpoint] ", path.string(), ": cannot be flushed: ", os_error()));
}

inline void rename_folder(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0)
    throw FileError(cat("[checkpoint] ", to.string(), ": cannot be put in place: ", os_error()));
}

/// XXH64 of a whole file, of which a mebibyte is in memory.
inline std::uint64_t file_checksum(const InputFile& file) {
  Checksum sum;
  std::vector<std::byte> buffer(static_cast<std::size_t>(std::min(file.size(), Index{1} << 20)));
  for (Index at = 0; at < file.size(); at += static_cast<Index>(buffer.size())) {
    const auto part = std::span(buffer).first(
        static_cast<std::size_t>(std::min(static_cast<Index>(buffer.size()), file.size() - at)));
    file.read(at, part);
    sum.add(part);
  }
  return sum.value();
}

}  // namespace detail

/// Bytes that are free where `path` is, or is to be made; nothing where the system does not say: what cannot
/// be asked shows when it is written.
inline std::optional<Index> disk_room(const std::filesystem::path& path) {
  std::error_code missing;
  std::filesystem::path place = std::filesystem::absolute(path, missing);
  while (!std::filesystem::exists(place, missing) && place.has_relative_path()) place = place.parent_path();
  struct statvfs disk {};
  if (::statvfs(place.c_str(), &disk) != 0) return {};
  return static_cast<Index>(disk.f_bavail) * static_cast<Index>(disk.f_frsize);
}

/// A folder that one process writes to: whoever asks for it second is refused. The lock goes with the object
/// or the process, whatever ends it; its empty file, `lock`, stays.
class FolderLock {
 public:
  /// Throws FileError where another process holds it, or the folder cannot be written to.
  explicit FolderLock(const std::filesystem::path& folder)
      : descriptor_(::open((folder / "lock").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
    if (!descriptor_.open())
      throw FileError(cat("[lock] ", (folder / "lock").string(), ": cannot be made: ", detail::os_error()));
    if (::flock(descriptor_.get(), LOCK_EX | LOCK_NB) == 0) return;
    if (errno == EWOULDBLOCK)
      throw FileError(cat("[lock] ", folder.string(), ": another process writes to it"));
    // Some network file systems know no locks: there is nothing to hold then.
  }

 private:
  detail::Descriptor descriptor_;
};

/// The checkpoints of one run in one folder. Saving copies tensors to the host and returns; a thread writes
/// the copies while the run goes on.
///
/// At every moment, whatever ends the process, the folder holds whole checkpoints alone, and `latest` names
/// one of them: files are written in a folder of another name, flushed, read back for their checksums, and
/// that folder is renamed when checkpoint.json is in it. Old ones go when the new one is in place.
///
/// One object at a time may use the folder (FolderLock), from one thread.
class Checkpoints {
 public:
  /// The files of a checkpoint to be, by their names in its folder.
  class Files {
   public:
    /// The tensors that `each` visits, as save_tensors() writes them, as they stand now.
    template <typename Each>
    void tensors(const std::string& name, const Each& each, FileMetadata metadata = {{"format", "pt"}}) {
      TensorSnapshot& copy = snapshots_[name];
      copy.take(each, std::move(metadata));
      bytes_ += copy.bytes();
      writers_[name] = [&copy](const std::filesystem::path& path) { copy.write(path); };
    }
    /// A text.
    void text(const std::string& name, std::string text) {
      bytes_ += static_cast<Index>(text.size());
      writers_[name] = [text = std::move(text)](const std::filesystem::path& path) {
        OutputFile file("checkpoint", path);
        file.write(text);
        file.commit();
      };
    }

   private:
    friend class Checkpoints;
    std::map<std::string, TensorSnapshot> snapshots_;  // their memory stays for the next checkpoint
    std::map<std::string, std::function<void(const std::filesystem::path&)>> writers_;
    Index bytes_ = 0;
  };

  /// folder: made by the first save   Throws ConfigError for options that make no sense.
  explicit Checkpoints(std::filesystem::path folder, const CheckpointOptions& options = {})
      : folder_(std::move(folder)), options_(options) {
    if (options.keep_last < 1)
      throw ConfigError(cat("[checkpoint] keep_last = ", options.keep_last, ": must be at least 1"));
    if (options.keep_every < 0)
      throw ConfigError(cat("[checkpoint] keep_every = ", options.keep_every, ": must be 0 or positive"));
  }
  Checkpoints(const Checkpoints&) = delete;
  Checkpoints& operator=(const Checkpoints&) = delete;
  /// Waits for the thread. What it failed with is lost: call wait() before.
  ~Checkpoints() {
    if (writer_.joinable()) writer_.join();
  }

  /// The folder as it was given.
  const std::filesystem::path& folder() const { return folder_; }

  /// Writes the state of `step`. `fill(Files&)` says which files there are; what it copies is the state now.
  /// Waits for the save before.
  ///
  /// run: what the program will want to know when it goes on
  /// Throws FileError when the disk has too little room, and what the save before failed with; nothing that
  /// was there is lost then.
  template <typename Fill>
  void save(Index step, Json run, const Fill& fill) {
    wait();
    files_.writers_.clear();
    files_.bytes_ = 0;
    fill(files_);
    require_room(files_.bytes_);
    writer_ = std::thread([this, step, run = std::move(run)] {
      try {
        write(step, run);
      } catch (...) {
        failed_ = std::current_exception();
      }
    });
  }

  /// Waits until the last save is on the disk. Throws what it failed with, once.
  void wait() {
    if (writer_.joinable()) writer_.join();
    if (failed_ != nullptr) std::rethrow_exception(std::exchange(failed_, nullptr));
  }

  /// Throws FileError, with both figures, unless the disk has room for a checkpoint of so many bytes.
  void require_room(Index bytes) const {
    const std::optional<Index> room = disk_room(folder_);
    if (room && bytes > *room)
      throw FileError(cat("[checkpoint] ", folder_.string(), ": a checkpoint takes ", bytes,
                          " bytes, and only ", *room, " are free there"));
  }

  /// Steps of the checkpoints that are there, from the first to the last. They have not been read.
  std::vector<Index> steps() const {
    std::vector<Index> all;
    std::error_code none;
    for (std::filesystem::directory_iterator entry(folder_, none), end; !none && entry != end;
         entry.increment(none)) {
      if (const auto step = step_of(entry->path().filename().native())) all.push_back(*step);
    }
    std::sort(all.begin(), all.end());
    return all;
  }

  /// Where the checkpoint of a step is, or would be.
  std::filesystem::path path(Index step) const { return folder_ / name(step); }

  /// Reads a checkpoint back: all that checkpoint.json lists is there, of its size and checksum. Throws
  /// FileError that names the file.
  static Checkpoint open(const std::filesystem::path& folder) {
    const InputFile file("checkpoint", folder / "checkpoint.json");
    const Json all = parse_json("checkpoint", file.read_text(Index{1} << 24), file.path(), 1000000);
    const auto demand = [&](bool holds, const std::string& rule) {
      if (!holds) file.fail(rule);
    };
    demand(all.is_object() && all.contains("checkpoint") && all.contains("xxh64"),
           "must be an object of checkpoint and xxh64");
    const Json& body = all["checkpoint"];
    demand(all["xxh64"] == checksum_text(checksum(body.dump())), "has changed: its checksum is another one");
    const auto whole = [&](const Json& in, const char* key) {
      demand(in.is_object() && in.contains(key) && in[key].is_number_integer(),
             cat(key, " must be an integer"));
      return in[key].get<Index>();
    };
    const Index format = whole(body, "format");
    demand(format == detail::checkpoint_format,
           cat("is of format ", format, "; this program knows format ", detail::checkpoint_format));
    Checkpoint found{folder, whole(body, "step"), body.value("run", Json())};
    demand(body.contains("files") && body["files"].is_object(), "files must be an object");
    for (const auto& [name, facts] : body["files"].items()) {
      const InputFile part("checkpoint", folder / name);
      if (const Index size = whole(facts, "bytes"); part.size() != size)
        part.fail(cat("has ", part.size(), " bytes; ", size, " were written"));
      if (facts.value("xxh64", "") != checksum_text(detail::file_checksum(part)))
        part.fail("has changed since it was written: its checksum is another one");
    }
    return found;
  }

  /// The checkpoint that `latest` names or, where that one is not whole, the newest before it that is; none
  /// if there is none. notice(text) hears of each that was passed over.
  template <typename Notice>
  std::optional<Checkpoint> newest(const Notice& notice) const {
    std::vector<Index> all = steps();
    if (const auto latest = read_latest()) std::erase_if(all, [&](Index step) { return step > *latest; });
    for (auto step = all.rbegin(); step != all.rend(); ++step) {
      try {
        return open(path(*step));
      } catch (const FileError& error) {
        notice(cat(error.what(), "; the one before is taken"));
      }
    }
    return {};
  }

  /// Makes `latest` name this step: a run that goes back to it does so again, until it has saved.
  void go_back_to(Index step) const { write_latest(step); }

  /// Removes all checkpoints: another run begins.
  void clear() {
    wait();
    for (const Index step : steps()) remove(step);
    std::error_code none;
    std::filesystem::remove(folder_ / "latest", none);
  }

 private:
  static std::string name(Index step) {
    std::string digits = std::to_string(step);
    if (digits.size() < 8) digits.insert(0, 8 - digits.size(), '0');
    return cat(detail::checkpoint_prefix, digits);
  }

  static std::optional<Index> step_of(std::string_view name) {
    if (!name.starts_with(detail::checkpoint_prefix)) return {};
    name.remove_prefix(detail::checkpoint_prefix.size());
    Index step = -1;
    const auto [end, failed] = std::from_chars(name.data(), name.data() + name.size(), step);
    if (failed != std::errc{} || end != name.data() + name.size() || step < 0) return {};
    return step;
  }

  /// A name beside `path` that no checkpoint has; remove_stale() knows it.
  static std::filesystem::path beside(const std::filesystem::path& path) {
    return cat(path.string(), ".tmp-", ::getpid());
  }

  void write(Index step, const Json& run) {
    std::error_code failed;
    const std::filesystem::path place = path(step), temporary = beside(place);
    const bool first = !std::filesystem::exists(folder_, failed);
    std::filesystem::create_directories(temporary, failed);
    if (failed)
      throw FileError(cat("[checkpoint] ", temporary.string(), ": cannot be made: ", failed.message()));
    if (first) detail::flush_checkpoints(std::filesystem::absolute(folder_).parent_path());
    try {
      write_files(temporary, step, run);
      detail::flush_checkpoints(temporary);
      if (std::filesystem::exists(place)) remove(step);
      detail::rename_folder(temporary, place);
    } catch (...) {
      std::filesystem::remove_all(temporary, failed);
      throw;
    }
    detail::flush_checkpoints(folder_);
    write_latest(step);
    rotate(step);
  }

  void write_files(const std::filesystem::path& folder, Index step, const Json& run) const {
    Json files = Json::object();
    for (const auto& [name, writer] : files_.writers_) {
      writer(folder / name);
      const InputFile written("checkpoint", folder / name);
      files[name] = {{"bytes", written.size()}, {"xxh64", checksum_text(detail::file_checksum(written))}};
    }
    Json body;
    body["format"] = detail::checkpoint_format;
    body["mtpx"] = cat(MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH);
    body["step"] = step;
    body["run"] = run;
    body["files"] = std::move(files);
    Json all;
    all["xxh64"] = checksum_text(checksum(body.dump()));
    all["checkpoint"] = std::move(body);
    OutputFile manifest("checkpoint", folder / "checkpoint.json");
    manifest.write(all.dump(1) + '\n');
    manifest.commit();
  }

  void write_latest(Index step) const {
    OutputFile latest("checkpoint", folder_ / "latest");
    latest.write(name(step) + '\n');
    latest.commit();
  }

  std::optional<Index> read_latest() const {
    try {
      std::string text = InputFile("checkpoint", folder_ / "latest").read_text(100);
      if (!text.empty() && text.back() == '\n') text.pop_back();
      return step_of(text);
    } catch (const FileError&) {
      return {};
    }
  }

  /// Removes what need not stay beside `newest`, which is whole and on the disk. Later ones are of a run that
  /// was gone back from.
  void rotate(Index newest) const {
    std::vector<Index> all = steps();
    for (const Index step : all) {
      if (step > newest) remove(step);
    }
    std::erase_if(all, [&](Index step) { return step > newest; });
    const auto last = static_cast<std::size_t>(options_.keep_last);
    for (std::size_t i = 0; i + last < all.size(); ++i) {
      if (options_.keep_every == 0 || all[i] % options_.keep_every != 0) remove(all[i]);
    }
  }

  /// Its name goes first, at once; what is left of it then is no checkpoint.
  void remove(Index step) const {
    const std::filesystem::path gone = cat(path(step).string(), "-old.tmp-", ::getpid());
    detail::rename_folder(path(step), gone);
    std::error_code stays;
    std::filesystem::remove_all(gone, stays);
  }

  std::filesystem::path folder_;
  CheckpointOptions options_;
  Files files_;
  std::thread writer_;
  std::exception_ptr failed_;
};

}  // namespace mtpx
