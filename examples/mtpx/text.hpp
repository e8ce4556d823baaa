#pragma once
// Where text comes from, and which ids it becomes.

#include "encode.hpp"
#include "model.hpp"

#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/io/tokenizer_json.hpp>

#include <functional>
#include <limits>
#include <optional>

namespace program {

/// The text under `paths`; without any, this repository's own sources and documents.
mtpx::Corpus read_corpus(const std::vector<std::string>& paths);

/// The tokenizer of a model folder, which mtpx::tokenizer_path() finds; without one text is bytes, which
/// takes a vocabulary of 256.
mtpx::Tokenizer tokenizer_of(const std::string& folder, const mtpx::Config& config,
                             mtpx::SafeTensorsOptions options = {});

class TextData;

/// What a new model reads text with: `file` if given, bytes for a vocabulary of 256, else byte-level BPE of
/// as many ids as the vocabulary, learnt from the text but for its share `held_out`.
mtpx::Tokenizer new_tokenizer(const std::string& file, const mtpx::Config& config, const TextData& text,
                              double held_out);

/// tokenizer.json that `name` says, a file or its folder; or "bytes".
mtpx::Tokenizer named_tokenizer(const std::string& name);

/// Writes the token file of what --data names; OutputError if it cannot be written.
void write_tokens(const std::filesystem::path& file, const std::vector<std::string>& data,
                  const mtpx::Tokenizer& tokenizer, const mtpx::Cpu& host);

/// The ids of --data.
struct TextIds {
  mtpx::Tokens tokens;
  mtpx::Index bytes;          // of the text
  std::uint64_t fingerprint;  // mtpx::IdsFingerprint
};

/// What --data names: files and folders of text, or one token file.
class TextData {
 public:
  /// Opens the token file, or reads text of no more than `memory` MiB; what is larger is left on the disk.
  /// Throws FileError.
  explicit TextData(std::vector<std::string> paths, bool verify = true,
                    mtpx::Index memory = std::numeric_limits<std::int32_t>::max());

  /// Byte-level BPE of as many ids as the vocabulary, learnt from the text but for its share `held_out`; a
  /// large text is read from the disk, not held. Throws FileError where there are ids alone.
  mtpx::Tokenizer learn(mtpx::Index vocabulary, double held_out) const;

  /// Its ids by this tokenizer. Those of a large text are written to the token file `kept` and read from
  /// there, unless it holds them already; say(text) hears of it. Throws FileError where a token file is of
  /// another tokenizer. The text is let go.
  TextIds ids(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& kept = {},
              const std::function<void(const std::string&)>& say = {});

 private:
  std::vector<std::filesystem::path> paths_;
  bool verify_;
  std::optional<mtpx::TokenFile> file_;
  std::optional<mtpx::Corpus> corpus_;
};

/// The ids of a text that goes on: with what its tokenizer puts before one.
std::vector<std::int32_t> prompt_ids(std::string_view text, const mtpx::Tokenizer& tokenizer);

/// A tokenizer as it is laid beside a model: the file that it came from as it is, or what was learnt; bytes
/// have none. The other files go along from the folder of the model that was begun with, or from beside the
/// tokenizer's, but for what such a model's makers say of its texts.   from: a file, or empty   model: a
/// folder, or empty
mtpx::TokenizerFiles tokenizer_files(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from,
                                     const std::filesystem::path& model);

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

/// How often each id of a vocabulary stands in a text.
std::vector<mtpx::Index> id_counts(const mtpx::Tokens& text, mtpx::Index vocabulary);

/// --draft-vocabulary N|FILE: the tokens that a finished model drafts from, over those of its folder.
struct DraftVocabulary {
  std::string given;  ///< a number, or the name of a file

  CLI::Option* add(CLI::App& command, const char* number);
  /// Says it to the model: 0 is all tokens, N the most frequent ones or, without counts, those below N; a
  /// file has the ids one after the other, ascending. Throws ConfigError, FileError.   counts: [V], or none
  template <typename T, typename D>
  void set(mtpx::Transformer<T, D>& model, std::span<const mtpx::Index> counts = {}) const {
    if (!given.empty()) model.draft_from(ids(model.config.vocab_size, counts));
  }

 private:
  std::vector<std::int32_t> ids(mtpx::Index vocabulary, std::span<const mtpx::Index> counts) const;
};

/// How many bytes of text each id of the model's vocabulary stands for.
std::vector<std::int32_t> token_bytes(const mtpx::Tokenizer& tokenizer, const mtpx::Config& config);

}  // namespace program
