#pragma once
// The tokenizer beside a model's weights, which know it by its checksum: it becomes new when they do.

#include <mtpx/io/checksum.hpp>
#include <mtpx/io/file.hpp>
#include <mtpx/io/safetensors.hpp>
#include <mtpx/io/weight_files.hpp>
#include <mtpx/text/input_file.hpp>

#include <array>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

namespace mtpx {

/// What a model folder holds beside weights and configuration to read and write text with: the files' texts;
/// an empty one is no file.
struct TokenizerFiles {
  std::string tokenizer{};      ///< tokenizer.json; empty: text is bytes
  std::string settings{};       ///< tokenizer_config.json, which other programs read
  std::string chat_template{};  ///< chat_template.jinja
  std::string generation{};     ///< generation_config.json
};

namespace detail {

constexpr const char* tokenizer_key = "tokenizer";  // in the weights' metadata: tokenizer_mark()
constexpr const char* tokenizer_name = "tokenizer.json";
constexpr const char* next_tokenizer_name = "tokenizer.json.new";  // from before the weights to behind them
constexpr const char* tokenizer_settings_name = "tokenizer_config.json";
constexpr const char* chat_template_name = "chat_template.jinja";
constexpr const char* generation_name = "generation_config.json";

/// Those beside tokenizer.json, which the weights know nothing of.
constexpr std::array<std::pair<const char*, std::string TokenizerFiles::*>, 3> side_files{
    {{tokenizer_settings_name, &TokenizerFiles::settings},
     {chat_template_name, &TokenizerFiles::chat_template},
     {generation_name, &TokenizerFiles::generation}}};

/// "bytes", or the checksum of tokenizer.json's bytes, as people can have it from `xxh64sum`. Nobody edits
/// these by hand.
inline std::string tokenizer_mark(const std::string& text) {
  return text.empty() ? "bytes" : checksum_text(checksum(text));
}

/// Removes a file of a former model, if it is there.
inline void remove_former(const std::filesystem::path& path) {
  std::error_code failed;
  if (!std::filesystem::remove(path, failed) && failed)
    throw FileError(cat("[model] ", path.string(), ": cannot be removed: ", failed.message()));
}

/// These files, written in a folder whose weights are about to be replaced.
class WrittenTokenizer {
 public:
  /// All of them reach the disk; tokenizer.json under a name that only the new weights look at.
  WrittenTokenizer(const std::filesystem::path& folder, const TokenizerFiles& files)
      : folder_(folder), bytes_(files.tokenizer.empty()) {
    if (!bytes_) {
      OutputFile file("tokenizer", folder / next_tokenizer_name);
      file.write(files.tokenizer);
      file.commit();
    }
    for (std::size_t i = 0; i < side_files.size(); ++i) {
      const std::string& text = files.*side_files[i].second;
      if (text.empty()) continue;
      sides_[i].emplace("tokenizer", folder / side_files[i].first);
      sides_[i]->write(text);
      sides_[i]->flush();
    }
  }

  /// When the weights are in place: they get the names that everybody knows, and what a former model had
  /// goes.
  void place() {
    const std::filesystem::path next = folder_ / next_tokenizer_name, usual = folder_ / tokenizer_name;
    if (bytes_) {
      for (const std::filesystem::path& path : {next, usual}) remove_former(path);
    } else if (::rename(next.c_str(), usual.c_str()) != 0) {
      throw FileError(cat("[tokenizer] ", usual.string(), ": cannot be put in place: ", os_error()));
    }
    for (std::size_t i = 0; i < side_files.size(); ++i) {
      if (!sides_[i]) remove_former(folder_ / side_files[i].first);
    }
    bool flushed = false;
    for (std::optional<OutputFile>& side : sides_) {
      if (!side) continue;
      side->place();  // which flushes the folder
      flushed = true;
    }
    if (!flushed && !flush_folder(folder_.string()))
      throw FileError(cat("[tokenizer] ", folder_.string(), ": cannot be flushed: ", os_error()));
  }

 private:
  std::filesystem::path folder_;
  bool bytes_;
  std::array<std::optional<OutputFile>, side_files.size()> sides_;
};

}  // namespace detail

/// The tokenizer.json of the model in `folder`: the one that was written with its weights or, where these do
/// not say, whichever is there. Empty where text is bytes.
///
/// Throws FileError, with both checksums, where it is missing or another one; options.verify = false: takes
/// what is there.
inline std::filesystem::path tokenizer_path(const std::filesystem::path& folder,
                                            SafeTensorsOptions options = {}) {
  constexpr Index most = Index{1} << 30;
  const std::filesystem::path usual = folder / detail::tokenizer_name,
                              weights = folder / detail::weights_name;
  const bool there = std::filesystem::exists(usual);
  const FileMetadata said = options.verify && std::filesystem::exists(weights)
                                ? SafeTensors::open(weights, {.mmap = false}).metadata()
                                : FileMetadata();
  const auto wanted = said.find(detail::tokenizer_key);
  if (wanted == said.end()) return there ? usual : "";
  if (wanted->second == detail::tokenizer_mark("")) return "";
  std::string found;
  // The second one where a save ended behind the weights.
  for (const std::filesystem::path& path : {usual, folder / detail::next_tokenizer_name}) {
    if (!std::filesystem::exists(path)) continue;
    const std::string mark = detail::tokenizer_mark(InputFile("tokenizer", path).read_text(most));
    if (mark == wanted->second) return path;
    if (path == usual) found = mark;
  }
  throw FileError(
      cat("[tokenizer] ", usual.string(), ": ",
          there ? "is not the one that was written with the weights: its checksum is " + found : "is missing",
          ", the weights' has ", wanted->second));
}

namespace detail {

/// The texts of `chat_template` in a tokenizer_config.json, which is one, or a list of them with names: by
/// name, the usual one's ("default") being empty. Throws FileError.   settings: what `file` holds
template <typename Value>
std::map<std::string, std::string> chat_template_texts(const InputFile& file, const Value& settings) {
  const auto fail = [&] {
    file.fail("chat_template is neither a text nor a list of those, each with a name and a template");
  };
  std::map<std::string, std::string> texts;
  const auto found = settings.find("chat_template");
  if (found == settings.end() || found->is_null()) return texts;
  if (found->is_string()) {
    texts.emplace("", found->template get<std::string>());
    return texts;
  }
  if (!found->is_array()) fail();
  for (const Value& one : *found) {
    const Value none, name = one.is_object() ? one.value("name", none) : none;
    const Value text = one.is_object() ? one.value("template", none) : none;
    if (!name.is_string() || !text.is_string()) fail();
    texts.emplace(name == "default" ? std::string() : name.template get<std::string>(),
                  text.template get<std::string>());
  }
  return texts;
}

}  // namespace detail

}  // namespace mtpx
