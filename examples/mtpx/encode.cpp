// The work on text.

#include "encode.hpp"

#include <mtpx/io/token_writer.hpp>
#include <mtpx/io/tokenizer_json.hpp>
#include <mtpx/train/learn_bpe.hpp>

namespace program {

mtpx::Tokenizer read_tokenizer(const std::filesystem::path& file) { return mtpx::read_tokenizer(file); }

mtpx::Tokenizer learn_tokenizer(const mtpx::Corpus& text, mtpx::Index vocabulary) {
  std::vector<std::string_view> documents;
  for (mtpx::Index d = 0; d < text.documents(); ++d) documents.push_back(text.text(d));
  return mtpx::train_bpe(documents, {.vocab_size = vocabulary, .special = {}});
}

mtpx::Tokenizer learn_tokenizer(const std::vector<std::filesystem::path>& texts, double held_out,
                                mtpx::Index vocabulary) {
  return mtpx::learn_bpe(texts, held_out, {.vocab_size = vocabulary, .special = {}});
}

std::vector<std::int32_t> encode(const mtpx::Tokenizer& tokenizer, std::string_view text, bool special) {
  return tokenizer.encode(text, special);
}

mtpx::Tokens tokens_of(const mtpx::Corpus& text, const mtpx::Tokenizer& tokenizer) {
  if (tokenizer.is_bytes()) return text;
  return {text, [&tokenizer](std::string_view document) {
            const mtpx::TokenizerParts& parts = tokenizer.parts();
            std::vector<std::int32_t> ids = tokenizer.encode(document);
            ids.insert(ids.begin(), parts.before.begin(), parts.before.end());
            ids.insert(ids.end(), parts.after.begin(), parts.after.end());
            return ids;
          }};
}

std::uint64_t fingerprint(const mtpx::Tokens& tokens) { return mtpx::IdsFingerprint::of(tokens); }

void write_token_file(const std::filesystem::path& file, const std::vector<std::filesystem::path>& texts,
                      const mtpx::Tokenizer& tokenizer, const mtpx::Cpu& host) {
  mtpx::write_token_file(file, texts, tokenizer, host);
}

}  // namespace program
