#pragma once
// The work on text: tokenizers read and learnt, and documents made into ids. encode.cpp is optimised.

#include <mtpx/io/token_file.hpp>
#include <mtpx/text/tokenizer.hpp>
#include <mtpx/train/corpus_files.hpp>
#include <mtpx/train/tokens.hpp>

#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

namespace program {

/// mtpx::read_tokenizer().
mtpx::Tokenizer read_tokenizer(const std::filesystem::path& file);

/// mtpx::train_bpe() of all documents, without special tokens.
mtpx::Tokenizer learn_tokenizer(const mtpx::Corpus& text, mtpx::Index vocabulary);
/// mtpx::learn_bpe(): of files and folders, but for what is held out.
mtpx::Tokenizer learn_tokenizer(const std::vector<std::filesystem::path>& texts, double held_out,
                                mtpx::Index vocabulary);

/// Tokenizer::encode().
std::vector<std::int32_t> encode(const mtpx::Tokenizer& tokenizer, std::string_view text, bool special);

/// The ids of documents, each with what its tokenizer puts around a text.
mtpx::Tokens tokens_of(const mtpx::Corpus& text, const mtpx::Tokenizer& tokenizer);

/// mtpx::IdsFingerprint::of().
std::uint64_t fingerprint(const mtpx::Tokens& tokens);

/// mtpx::write_token_file().
void write_token_file(const std::filesystem::path& file, const std::vector<std::filesystem::path>& texts,
                      const mtpx::Tokenizer& tokenizer, const mtpx::Cpu& host);

}  // namespace program
