// mtpx tokenize: text in, a token file out; or its ids, to look at.

#include "text.hpp"

#include <array>
#include <charconv>
#include <iostream>

namespace program {
namespace {

struct TokenizeFlags {
  std::vector<std::string> data;
  std::string text, tokenizer, out;
  bool print = false, special = false;
  int threads = 0;
};

/// The ids of one file as a JSON array.
void print_ids(const TokenizeFlags& o) {
  const mtpx::Tokenizer tokenizer = named_tokenizer(o.tokenizer);
  const mtpx::InputFile file("tokenize", o.text);
  const std::vector<std::int32_t> ids =
      encode(tokenizer, file.read_text(mtpx::Corpus::longest_document), o.special);
  std::string line = "[";
  for (const std::int32_t id : ids) {
    std::array<char, 16> digits;
    const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), id).ptr;
    if (line.size() > 1) line += ',';
    line.append(digits.data(), end);
  }
  std::cout << line << "]\n";
}

void write_ids(const TokenizeFlags& o) {
  const mtpx::Tokenizer tokenizer = named_tokenizer(o.tokenizer);
  const auto start = Clock::now();
  write_tokens(o.out, o.data, tokenizer, mtpx::Cpu(o.threads));
  const double seconds = seconds_since(start);
  const mtpx::TokenFile file = mtpx::TokenFile::open(o.out);
  const auto bytes = static_cast<double>(file.text_bytes());
  std::cout << o.out << ": " << file.size() << " tokens of " << file.vocabulary() << " in "
            << file.documents() << " documents, from " << file.text_bytes() << " bytes of text, "
            << fixed(bytes / static_cast<double>(file.size()), 2) << " a token; "
            << fixed(bytes / 1e6 / seconds, 1) << " MB/s\n";
}

}  // namespace

void add_tokenize(CLI::App& app) {
  auto options = std::make_shared<TokenizeFlags>();
  TokenizeFlags& o = *options;
  CLI::App* command =
      app.add_subcommand("tokenize", "Write the ids of a text to a file that train --data maps");
  auto* data = command->add_option("--data", o.data, "Files or folders of text");
  command->add_option("--tokenizer", o.tokenizer, "tokenizer.json or the folder that has it, or bytes")
      ->required();
  auto* out = command->add_option("--out", o.out, "Token file")->needs(data);
  auto* text =
      command->add_option("--text", o.text, "One file, to print its ids")->excludes(data)->excludes(out);
  auto* print = command->add_flag("--print", o.print, "Print the ids as one JSON array")->needs(text);
  text->needs(print);
  data->needs(out);
  command->add_flag("--special", o.special, "Special tokens in the text are ids of their own")->needs(print);
  command
      ->add_option("--threads", o.threads, "Threads; 0 takes every processor. The file does not depend on it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([options] {
    if (options->print) return print_ids(*options);
    if (options->out.empty())
      throw mtpx::ConfigError("[tokenize] --data and --out are required, or --text and --print");
    write_ids(*options);
  });
}

}  // namespace program
