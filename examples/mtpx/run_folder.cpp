#include "run_folder.hpp"

#include <mtpx/io/sidecar.hpp>
#include <mtpx/io/train_state.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <set>

namespace program {

namespace fs = std::filesystem;

namespace {

/// The rows of a file up to a step.
std::string rows_until(const fs::path& path, mtpx::Index step) {
  if (step == 0 || !fs::exists(path)) return "";
  const mtpx::InputFile file("train", path);
  const std::string text = file.read_text(file.size());
  std::size_t at = 0;
  while (at < text.size()) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    const mtpx::Json row = mtpx::Json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                                             text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!row.is_object() || !row.contains("step") || !row["step"].is_number_integer() || row["step"] > step)
      break;
    at = end + 1;
  }
  return text.substr(0, at);
}

}  // namespace

JsonLines::JsonLines(fs::path path, mtpx::Index keep) : path_(std::move(path)) {
  write_output([&] {
    mtpx::OutputFile kept("train", path_);
    kept.write(rows_until(path_, keep));
    kept.commit();
  });
  file_ = mtpx::detail::Descriptor(::open(path_.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
  if (!file_.open()) fail();
}

void JsonLines::add(const mtpx::Json& row) {
  if (!file_.open()) return;
  const std::string line = row.dump() + '\n';
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t put = ::write(file_.get(), line.data() + done, line.size() - done);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) fail();
    done += static_cast<std::size_t>(put);
  }
}

void JsonLines::sync() {
  if (file_.open() && ::fsync(file_.get()) != 0) fail();
}

void JsonLines::fail() const {
  throw OutputError(mtpx::cat("[train] ", path_.string(), ": cannot be written: ", std::strerror(errno)));
}

void CheckpointFlags::add(CLI::App& command) {
  command.add_option(
      "--resume", resume,
      "Go on from a checkpoint: auto = the newest whole one of --out, or anew if there is none; "
      "or the folder of a checkpoint or of a run");
  command
      .add_option(
          "--override", overrides,
          "Fields that may differ from the checkpoint's, by commas; steps: the schedules are those of the "
          "new number")
      ->delimiter(',');
  command
      .add_option(
          "--save-every", every,
          "Steps between checkpoints in --out/checkpoints; 0: on signals and where a run ends early alone; "
          "default: with each validation")
      ->check(CLI::Range(0, 1 << 30));
  command.add_option("--keep-last", kept.keep_last, "Newest checkpoints that stay")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  command
      .add_option("--keep-every", kept.keep_every, "Checkpoints that stay, too: of steps that this divides")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command
      .add_option_function<std::string>(
          "--on-nonfinite",
          [this](const std::string& text) {
            constexpr std::string_view prefix = "skip:";
            stop_on_bad_step = text == "stop";
            if (stop_on_bad_step) return;
            const char* end = text.data() + text.size();
            const auto [last, failed] =
                std::from_chars(text.data() + std::min(prefix.size(), text.size()), end, skips);
            if (!text.starts_with(prefix) || failed != std::errc{} || last != end || skips < 1)
              throw CLI::ValidationError("--on-nonfinite", text + " is neither stop nor skip:N");
          },
          "A step whose loss or gradient norm is not finite changes nothing. stop: the run ends, exit code "
          "5; "
          "skip:N: its batch is left out, N times at most")
      ->default_str("stop");
  command
      .add_option_function<std::string>(
          "--on-failed-save", [this](const std::string& what) { stop_on_failed_save = what == "stop"; },
          "A checkpoint that cannot be written. stop: the run ends, exit code 4; go-on: it is said, and "
          "tried again "
          "next time")
      ->default_str("stop")
      ->check(CLI::IsMember({"stop", "go-on"}));
}

RunFolder::RunFolder(const std::string& out, const CheckpointFlags& flags, bool writes)
    : out_(out), resume_(flags.resume), checkpoints_(out_ / "checkpoints", flags.kept) {
  std::error_code none;  // what is wrong with it shows when it is made
  if (writes && fs::is_directory(out_, none)) write_output([&] { lock_.emplace(out_); });
}

std::optional<mtpx::Checkpoint> RunFolder::find(const std::function<void(const std::string&)>& say) const {
  const auto notice = [&](const std::string& text) { say("notice: " + text); };
  if (resume_.empty()) return {};
  if (resume_ == "auto") return checkpoints_.newest(notice);
  const fs::path folder(resume_);
  if (fs::exists(folder / "checkpoint.json")) return mtpx::Checkpoints::open(folder);
  for (const fs::path& of : {folder, folder / "checkpoints"}) {
    if (auto found = mtpx::Checkpoints(of).newest(notice)) return found;
  }
  throw mtpx::FileError(mtpx::cat("[train] --resume ", resume_, ": there is no whole checkpoint"));
}

void RunFolder::check(bool force) const {
  const auto there = [&](const char* what) {
    throw mtpx::ConfigError(
        mtpx::cat("[train] --out ", out_.string(), ": a ", what, " is there already; --force replaces it"));
  };
  if (resume_.empty() && !force) {
    if (mtpx::has_model(out_)) there("model");
    std::error_code ignored;
    if (fs::exists(out_ / mtpx::detail::sidecar_name, ignored)) there("sidecar");
    if (!checkpoints_.steps().empty()) there("run, with checkpoints that --resume auto goes on from,");
  }
}

void RunFolder::prepare(const std::optional<mtpx::Checkpoint>& from,
                        const std::function<void(const std::string&)>& say) {
  make_out("train", out_.string());
  write_output([&] {
    if (!lock_) lock_.emplace(out_);
    for (const fs::path& folder : {out_, checkpoints_.folder()}) {
      for (const fs::path& path : mtpx::remove_stale(folder))
        say(mtpx::cat("notice: removed ", path.string(), ", which a process that is gone left half written"));
    }
    std::error_code none;
    const bool ours = from && fs::equivalent(from->folder.parent_path(), checkpoints_.folder(), none);
    if (ours) {
      checkpoints_.go_back_to(from->step);
    } else {
      checkpoints_.clear();
    }
  });
}

mtpx::Json run_facts(const CLI::App& command) {
  const std::set<std::string> others{"help",
                                     "data",
                                     "validation-data",
                                     "out",
                                     "init",
                                     "model",
                                     "mtp",
                                     "sidecar",
                                     "config",
                                     "preset",
                                     "tokenizer",
                                     "no-mmap",
                                     "no-verify",
                                     "resume",
                                     "override",
                                     "save-every",
                                     "keep-last",
                                     "keep-every",
                                     "on-nonfinite",
                                     "on-failed-save",
                                     "force",
                                     "export-no-mtp",
                                     "layout",
                                     "share-experts",
                                     "threads",
                                     "device",
                                     "tensorboard",
                                     "dry-run",
                                     "depth",
                                     "text-memory",
                                     "heads",
                                     "vocab-size",
                                     "checkpoint-activations",
                                     "draft-vocabulary",
                                     "tie-word-embeddings"};
  mtpx::Json facts;
  facts["mtpx"] = mtpx::cat(MTPX_VERSION_MAJOR, '.', MTPX_VERSION_MINOR, '.', MTPX_VERSION_PATCH);
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_lnames().empty() || others.contains(option->get_lnames()[0])) continue;
    std::string value;
    for (const std::string& part : option->results()) value += (value.empty() ? "" : ",") + part;
    facts[option->get_lnames()[0]] = value.empty() ? option->get_default_str() : value;
  }
  return facts;
}

void check_facts(const mtpx::Checkpoint& checkpoint, const mtpx::Json& facts,
                 const std::vector<std::string>& overrides) {
  const mtpx::Json& run = checkpoint.run;
  const auto object = [](const mtpx::Json& in, const char* key) {
    return in.is_object() && in.contains(key) && in[key].is_object();
  };
  if (!object(run, "facts") || !object(run, "state") ||
      !run["state"].value("skipped", mtpx::Json()).is_number_integer())
    throw mtpx::FileError(
        mtpx::cat("[train] --resume ", checkpoint.folder.string(),
                  ": was not written by mtpx train: run must have facts and state.skipped"));
  const std::string text = mtpx::json_differences_text(run["facts"], facts, overrides);
  if (!text.empty())
    throw mtpx::ConfigError(
        mtpx::cat("[train] --resume ", checkpoint.folder.string(),
                  ": this is not the run that was saved; --override names fields that may differ", text));
}

}  // namespace program
