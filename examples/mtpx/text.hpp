#pragma once
// Where text comes from, and which ids it becomes.

#include "model.hpp"

#include <mtpx/io/tokenizer_json.hpp>

namespace program {

/// The text under `paths`; without any, this repository's own sources and documents.
mtpx::Corpus read_corpus(const std::vector<std::string>& paths);

/// tokenizer.json of a model folder; without it text is bytes, which takes a vocabulary of 256.
mtpx::Tokenizer tokenizer_of(const std::string& folder, const mtpx::Config& config);

/// What a new model reads text with: `file` if given, bytes for a vocabulary of 256, else byte-level BPE of
/// as many ids as the vocabulary, learnt from the text that is trained on.
mtpx::Tokenizer new_tokenizer(const std::string& file, const mtpx::Config& config, const mtpx::Corpus& text);

/// The ids of documents, each with what its tokenizer puts around a text.
mtpx::Tokens tokens_of(const mtpx::Corpus& text, const mtpx::Tokenizer& tokenizer);

/// The ids of a text that goes on: with what its tokenizer puts before one.
std::vector<std::int32_t> prompt_ids(std::string_view text, const mtpx::Tokenizer& tokenizer);

/// Lays the tokenizer beside a model: the file that it came from as it is, with the tokenizer_config.json
/// beside it, or what was learnt. A model of bytes has none.   from: a file, or empty
void save_tokenizer(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from,
                    const std::filesystem::path& folder);

/// The tokenizer.json that save_tokenizer() would write.
std::string tokenizer_text(const mtpx::Tokenizer& tokenizer, const std::filesystem::path& from);

/// A tokenizer as one fact of a run: the checksum of its file, or that there is none: bytes, or learnt from
/// text.
std::string tokenizer_fact(const std::filesystem::path& from);

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
std::vector<std::int32_t> token_bytes(const mtpx::Tokenizer& tokenizer, const mtpx::Config& config);

}  // namespace program
