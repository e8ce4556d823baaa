#pragma once
// Where text comes from, and which ids it becomes.

#include "model.hpp"

#include <mtpx/io/file.hpp>
#include <mtpx/io/tokenizer_json.hpp>

namespace program {

/// The text under `paths`; without any, this repository's own sources and documents.
inline mtpx::Corpus read_corpus(const std::vector<std::string>& paths) {
  if (paths.empty()) return mtpx::Corpus::from_paths({MTPX_SOURCE_DIR});
  return mtpx::Corpus::from_paths({paths.begin(), paths.end()});
}

/// A tokenizer of which the model knows every id, or an error that names both.
inline mtpx::Tokenizer read_fitting(const std::filesystem::path& file, const mtpx::Config& config) {
  const mtpx::Tokenizer tokenizer = mtpx::read_tokenizer(file);
  if (tokenizer.size() <= config.vocab_size) return tokenizer;
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ", file.string(), ": has ids up to ", tokenizer.size() - 1,
                                    "; the model's vocab_size is ", config.vocab_size));
}

/// tokenizer.json of a model folder; without it text is bytes, which takes a vocabulary of 256.
inline mtpx::Tokenizer tokenizer_of(const std::string& folder, const mtpx::Config& config) {
  const std::filesystem::path file = std::filesystem::path(folder) / "tokenizer.json";
  if (std::filesystem::exists(file)) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  throw mtpx::ConfigError(mtpx::cat("[tokenizer] ", file.string(),
                                    ": not there, and vocab_size = ", config.vocab_size,
                                    ": text is read as bytes only with a vocabulary of 256"));
}

/// What a new model reads text with: `file` if given, bytes for a vocabulary of 256, else byte-level BPE of
/// as many ids as the vocabulary, learnt from the text that is trained on.
inline mtpx::Tokenizer new_tokenizer(const std::string& file, const mtpx::Config& config,
                                     const mtpx::Corpus& text) {
  if (!file.empty()) return read_fitting(file, config);
  if (config.vocab_size == 256) return {};
  if (config.vocab_size < 256) {
    throw mtpx::ConfigError(mtpx::cat("[tokenizer] vocab_size = ", config.vocab_size,
                                      ": must be at least 256, an id for each byte"));
  }
  std::vector<std::string_view> documents;
  for (mtpx::Index d = 0; d < text.documents(); ++d) documents.push_back(text.text(d));
  return mtpx::train_bpe(documents, {.vocab_size = config.vocab_size, .special = {}});
}

/// The ids of documents, each with what its tokenizer puts around a text.
inline mtpx::Tokens tokens_of(const mtpx::Corpus& text, const mtpx::Tokenizer& tokenizer) {
  if (tokenizer.is_bytes()) return text;
  return {text, [&tokenizer](std::string_view document) {
            const mtpx::TokenizerParts& parts = tokenizer.parts();
            std::vector<std::int32_t> ids = tokenizer.encode(document);
            ids.insert(ids.begin(), parts.before.begin(), parts.before.end());
            ids.insert(ids.end(), parts.after.begin(), parts.after.end());
            return ids;
          }};
}

/// The ids of a text that goes on: with what its tokenizer puts before one.
inline std::vector<std::int32_t> prompt_ids(std::string_view text, const mtpx::Tokenizer& tokenizer) {
  std::vector<std::int32_t> ids = tokenizer.encode(text);
  const std::vector<std::int32_t>& before = tokenizer.parts().before;
  ids.insert(ids.begin(), before.begin(), before.end());
  return ids;
}

/// Lays the tokenizer beside a model: the file that it came from as it is, with the tokenizer_config.json
/// beside it, or what was learnt. A model of bytes has none.   from: a file, or empty
inline void save_tokenizer(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from,
                           const std::filesystem::path& folder) {
  if (from.empty()) {
    if (!tokenizer.is_bytes()) mtpx::write_tokenizer(tokenizer, folder / "tokenizer.json");
    return;
  }
  const auto copy = [&](const std::filesystem::path& file, const char* name) {
    std::error_code none;
    if (!std::filesystem::exists(file) || std::filesystem::equivalent(file, folder / name, none)) return;
    mtpx::OutputFile out("tokenizer", folder / name);
    out.write(mtpx::InputFile("tokenizer", file).read_text(mtpx::Index{1} << 30));
    out.commit();
  };
  copy(from, "tokenizer.json");
  copy(from.parent_path() / "tokenizer_config.json", "tokenizer_config.json");
}

/// The text of a model's tokens as they come. Ids of its vocabulary that the tokenizer has not, add none.
class Decoded {
 public:
  explicit Decoded(const mtpx::Tokenizer& tokenizer) : size_(tokenizer.size()), text_(tokenizer) {}

  std::string push(std::int32_t token) { return token < size_ ? text_.push(token) : std::string(); }
  std::string finish() { return text_.finish(); }

 private:
  mtpx::Index size_;
  mtpx::TokenStream text_;
};

/// How many bytes of text each id of the model's vocabulary stands for.
inline std::vector<std::int32_t> token_bytes(const mtpx::Tokenizer& tokenizer, const mtpx::Config& config) {
  std::vector<std::int32_t> bytes(static_cast<std::size_t>(config.vocab_size), 0);
  for (std::int32_t id = 0; id < static_cast<std::int32_t>(tokenizer.size()); ++id)
    bytes[static_cast<std::size_t>(id)] = static_cast<std::int32_t>(tokenizer.text(id).size());
  return bytes;
}

}  // namespace program
