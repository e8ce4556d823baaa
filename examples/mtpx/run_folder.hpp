#pragma once
// The folder of a training: --out, with the lines that the run writes there and its checkpoints.

#include "program.hpp"

#include <mtpx/io/checkpoint.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace program {

/// A file of JSON lines that a run appends to, each whole before the next.
class JsonLines {
 public:
  /// Of a rank that writes nothing.
  JsonLines() = default;
  /// Keeps the rows up to step `keep`, a row that a crash cut off excepted, and appends behind them; 0:
  /// begins anew. Throws OutputError.
  JsonLines(std::filesystem::path path, mtpx::Index keep);

  /// Throws OutputError.
  void add(const mtpx::Json& row);
  /// Makes what was added reach the disk.
  void sync();

 private:
  [[noreturn]] void fail() const;

  std::filesystem::path path_;
  mtpx::detail::Descriptor file_;
};

/// --resume, --override, --save-every and their kind.
struct CheckpointFlags {
  std::string resume;                  // empty, "auto", or a folder
  std::vector<std::string> overrides;  // fields that may differ
  mtpx::Index every = -1;              // steps; -1: with each validation; 0: when told
  mtpx::CheckpointOptions kept;
  bool stop_on_bad_step = true;
  mtpx::Index skips = 0;  // bad steps that are skipped, at most
  bool stop_on_failed_save = true;

  void add(CLI::App& command);
};

/// --out of a training, which this process alone writes to.
class RunFolder {
 public:
  /// Locks the folder if it is there already, unless nothing will be written. Throws FileError where another
  /// process holds it.
  RunFolder(const std::string& out, const CheckpointFlags& flags, bool writes);

  /// What --resume asks to go on from. say(text) hears of checkpoints that are not whole.
  std::optional<mtpx::Checkpoint> find(const std::function<void(const std::string&)>& say) const;

  /// Throws ConfigError where a model or a run is there that --force would replace.
  void check(bool force) const;

  /// Makes the folder what a run from `from`, or a new one, needs: locked, without what others left half
  /// written or, anew, a run before.
  void prepare(const std::optional<mtpx::Checkpoint>& from,
               const std::function<void(const std::string&)>& say);

  mtpx::Checkpoints& checkpoints() { return checkpoints_; }
  std::filesystem::path operator/(const char* name) const { return out_ / name; }

 private:
  std::filesystem::path out_;
  std::string resume_;
  std::optional<mtpx::FolderLock> lock_;
  mtpx::Checkpoints checkpoints_;
};

/// What decides a run's bits, by name: the flags as given or their defaults, but for those that say where
/// things are and how they are watched.
mtpx::Json run_facts(const CLI::App& command);

/// Throws ConfigError, with each field before and now, where `facts` are not those that the checkpoint was
/// made under, unless --override names the field.
void check_facts(const mtpx::Checkpoint& checkpoint, const mtpx::Json& facts,
                 const std::vector<std::string>& overrides);

}  // namespace program
