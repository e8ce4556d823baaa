#pragma once
// What is asked of the readers for any bytes whatever: they succeed with sound content, or throw an mtpx
// error that names the file; nothing else. Used by the fuzzers and, over the corpus, by the tests.

#include <mtpx/io/config_json.hpp>
#include <mtpx/io/safetensors.hpp>
#include <mtpx/io/stop_text.hpp>
#include <mtpx/io/token_file.hpp>
#include <mtpx/io/tokenizer_json.hpp>
#include <mtpx/io/weight_files.hpp>
#include <mtpx/text/bpe_train.hpp>
#include <mtpx/text/chat_template.hpp>
#include <mtpx/text/pcre2.hpp>
#include <mtpx/text/utf8.hpp>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace mtpx_test {

/// Ends the program: the fuzzer reports the input.
inline void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

/// A file in memory, with a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::span<const std::uint8_t> bytes) : descriptor_(::memfd_create("fuzz", 0)) {
    must(descriptor_ >= 0, "a file in memory");
    must(::write(descriptor_, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()), "its bytes");
  }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  ~MemoryFile() { ::close(descriptor_); }

  std::string path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

 private:
  int descriptor_;
};

inline void read_everything(const mtpx::SafeTensors& file, std::size_t size) {
  mtpx::Index total = 0;
  for (const mtpx::SafeTensorsEntry& entry : file.tensors()) {
    must(file.find(entry.name) == &entry, "an entry is found under its name");
    total += entry.bytes();
    std::vector<std::byte> bytes(static_cast<std::size_t>(entry.bytes()));
    file.read_bytes(entry, 0, bytes);
    if (!entry.dtype) continue;
    must(entry.bytes() == entry.count() * mtpx::dtype_size(*entry.dtype), "a tensor has its bytes");
    must(file.read<double>(entry).size() == static_cast<std::size_t>(entry.count()),
         "a tensor is read whole");
  }
  must(total <= static_cast<mtpx::Index>(size), "no tensor lies outside the file");
}

/// Any file, as a safetensors file.
inline void fuzz_safetensors(std::span<const std::uint8_t> bytes) {
  const MemoryFile memory(bytes);
  for (const bool mmap : {true, false}) {
    try {
      read_everything(mtpx::SafeTensors::open(memory.path(), {mmap}), bytes.size());
    } catch (const mtpx::FileError& error) {
      must(std::string(error.what()).starts_with("[safetensors] " + memory.path() + ": "),
           "errors name the file");
    }
  }
}

/// Any text, as a config.json.
inline void fuzz_config(std::span<const std::uint8_t> bytes) {
  const std::string text(bytes.begin(), bytes.end());
  try {
    const mtpx::ModelConfig model = mtpx::parse_config(text, "config.json");
    must(model.config.violations().empty(), "an accepted configuration adds up");
    const mtpx::ModelConfig again = mtpx::parse_config(mtpx::config_json(model.config, model.extra), "again");
    must(again.config.parameter_count() == model.config.parameter_count(),
         "written and read, it is the same");
  } catch (const mtpx::FileError& error) {
    must(std::string(error.what()).starts_with("[config] config.json: "), "errors name the file");
  } catch (const mtpx::ConfigError& error) {
    must(std::string(error.what()).starts_with("[config] config.json: "), "errors name the file");
  }
}

/// A tokenizer.json up to the first zero byte, and a text after it.
inline void fuzz_tokenizer(std::span<const std::uint8_t> bytes) {
  const std::string all(bytes.begin(), bytes.end());
  const std::size_t zero = std::min(all.find('\0'), all.size());
  const std::string text = all.substr(std::min(zero + 1, all.size()));
  try {
    const mtpx::Tokenizer tokenizer = mtpx::parse_tokenizer(all.substr(0, zero), "tokenizer.json");
    const mtpx::Tokenizer again = mtpx::parse_tokenizer(mtpx::tokenizer_json(tokenizer), "again");
    must(again.fingerprint() == tokenizer.fingerprint(), "written and read, it is the same");
    const mtpx::TokenizerParts& parts = tokenizer.parts();
    bool exact = !parts.nfc;
    for (const mtpx::AddedToken& token : parts.added) exact = exact && !token.normalized;
    for (const mtpx::Split& split : parts.splits) exact = exact && !split.drop_matches && !split.drop_rest;
    for (const bool special : {false, true}) {
      try {
        const std::vector<std::int32_t> ids = tokenizer.encode(text, special);
        must(again.encode(text, special) == ids, "written and read, it gives the same ids");
        must(!exact || tokenizer.decode(ids) == text, "a text comes back");
      } catch (const mtpx::FileError&) {
        throw;
      } catch (const mtpx::Error& error) {
        must(std::string(error.what()).starts_with("[tokenizer] the pattern "), "only patterns give up");
      }
    }
  } catch (const mtpx::FileError& error) {
    must(std::string(error.what()).starts_with("[tokenizer] tokenizer.json: "), "errors name the file");
  }
}

/// Any text, by the patterns of published files and by our own: it comes back, and a text that is cut where
/// Tokenizer::cut() says has the ids of the whole.
inline void fuzz_text(std::span<const std::uint8_t> bytes) {
  static const std::vector<mtpx::Tokenizer> tokenizers = [] {
    const std::string sample = "the 12 of\n\n and then\r\n  an item's end. \u00e9t\u00e9 \u4e00\u4e8c /a/b\n";
    std::string text;
    for (int i = 0; i < 9; ++i) text += sample;
    const std::vector<std::string_view> documents{text};
    const mtpx::Tokenizer own = mtpx::train_bpe(documents, {.vocab_size = 320});
    std::vector<mtpx::Tokenizer> all{own};
#ifdef MTPX_PCRE2
    for (const std::string_view pattern : mtpx::detail::line_patterns) {
      mtpx::TokenizerParts parts = own.parts();
      mtpx::Split split;
      split.pattern = pattern;
      split.find = mtpx::pcre2_matches(split.pattern);
      parts.splits = {split};
      all.emplace_back(parts);
    }
#endif
    return all;
  }();
  const std::string text(bytes.begin(), bytes.end());
  for (const mtpx::Tokenizer& tokenizer : tokenizers) {
    const std::vector<std::int32_t> ids = tokenizer.encode(text);
    must(tokenizer.decode(ids) == text, "a text comes back");
    std::vector<std::int32_t> parts;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = tokenizer.cut(text, at + 1);
      const std::vector<std::int32_t> part = tokenizer.encode(text.substr(at, end - at));
      parts.insert(parts.end(), part.begin(), part.end());
      at = end;
    }
    must(parts == ids, "a text that is cut where it may be has the same ids");
  }
}

/// Any text, as the index of a model's shards.
inline void fuzz_index(std::span<const std::uint8_t> bytes) {
  const MemoryFile memory(bytes);
  try {
    for (const auto& [name, shard] : mtpx::detail::read_index(memory.path()))
      must(std::filesystem::path("folder") / shard == "folder/" + shard && shard != ".." && shard != "." &&
               shard.find('/') == std::string::npos,
           "a shard lies in the folder");
  } catch (const mtpx::FileError& error) {
    must(std::string(error.what()).starts_with("[index] " + memory.path() + ": "), "errors name the file");
  }
}

/// Any file, as a token file; as it is, and with the checksums that would be right.
inline void fuzz_tokens(std::span<const std::uint8_t> bytes) {
  const auto read = [](std::span<const std::uint8_t> file) {
    const MemoryFile memory(file);
    for (const bool verify : {true, false}) {
      try {
        const mtpx::Tokens tokens = mtpx::TokenFile::open(memory.path(), {verify}).tokens();
        must(tokens.size() > 0 && tokens.size() <= static_cast<mtpx::Index>(file.size()),
             "ids lie in the file");
        mtpx::Index all = 0;
        for (mtpx::Index d = 0; d < tokens.documents(); ++d) {
          must(tokens.start(d) == all && tokens.length(d) > 0, "documents lie end to end");
          all += tokens.length(d);
        }
        must(all == tokens.size(), "and hold all ids");
        std::vector<std::int32_t> ids(static_cast<std::size_t>(all));
        tokens.read(0, ids);
      } catch (const mtpx::FileError& error) {
        must(std::string(error.what()).starts_with("[tokens] " + memory.path() + ": "),
             "errors name the file");
      }
    }
  };
  read(bytes);
  mtpx::detail::TokenHeader header;
  if (bytes.size() < sizeof header) return;
  std::vector<std::uint8_t> sound(bytes.begin(), bytes.end());
  std::memcpy(&header, sound.data(), sizeof header);
  const std::uint64_t ids_end = sizeof header + header.tokens * header.width;
  if (ids_end <= sound.size())
    header.tables =
        mtpx::checksum(std::as_bytes(std::span(sound)).subspan(static_cast<std::size_t>(ids_end)));
  header.header = mtpx::detail::header_checksum(header);
  std::memcpy(sound.data(), &header, sizeof header);
  read(sound);
}

/// The size of pieces, stop texts that each end with a zero byte, and a text, as a prompt whose continuation
/// is written in such pieces.
inline void fuzz_stop(std::span<const std::uint8_t> bytes) {
  if (bytes.empty()) return;
  const std::size_t size = bytes[0] % 16 + std::size_t{1};
  std::string text(bytes.begin() + 1, bytes.end());
  std::vector<std::string> stops;
  for (std::size_t zero; (zero = text.find('\0')) != std::string::npos && stops.size() < 8;
       text.erase(0, zero + 1))
    if (zero > 0) stops.push_back(text.substr(0, zero));
  mtpx::StopText stop(stops);
  mtpx::Utf8Stream characters;
  std::string out, whole;
  for (std::size_t i = 0; i < text.size(); i += size) {
    std::string piece;
    for (const char c : text.substr(i, size)) piece += characters.push(static_cast<unsigned char>(c));
    whole += piece;
    out += stop.push(piece);
  }
  const std::string last = characters.finish();
  whole += last;
  out += stop.push(last);
  if (!stop.found()) out += stop.finish();
  must(mtpx::Utf8Stream::valid(whole), "what is written is UTF-8");
  must(!mtpx::Utf8Stream::valid(text) || whole == text, "valid text is written as it is");
  must(whole.starts_with(out), "what is written is the text's beginning");
  bool ended = out == whole;
  for (const std::string& one : stops) {
    must(out.find(one) == std::string::npos, "a stop text is not written");
    ended = ended || whole.substr(out.size()).starts_with(one);
  }
  must(ended && stop.found() == (out != whole), "the text ends before a stop text");
}

/// Any bytes, as a chat template.
inline void fuzz_template(std::span<const std::uint8_t> bytes) {
  using Variables = mtpx::TemplateValue::Pairs;
  const std::string text(bytes.begin(), bytes.end());
  std::vector<mtpx::TemplateValue> messages;
  for (const char* role : {"system", "user", "assistant"})
    messages.emplace_back(Variables{{"role", role}, {"content", " a, <b>\n\xc3\xa9'\xe6\x97\xa5\" "}});
  const Variables variables{{"messages", mtpx::TemplateValue::list_of(messages)},
                            {"n", 3},
                            {"f", -2.5},
                            {"none_", nullptr},
                            {"yes", true},
                            {"s", "x y"}};
  try {
    constexpr mtpx::TemplateLimits limits{.steps = 20000, .bytes = 10000};
    const mtpx::ChatTemplate chat(text, "f", limits);
    const std::string said = chat.render(variables, 0);
    must(said.size() <= 10000, "a text keeps its limit");
    must(chat.render(variables, 0) == said, "a template says the same again");
    must(mtpx::Utf8Stream::valid(said), "a text is UTF-8");
  } catch (const mtpx::FileError& error) {
    must(std::string(error.what()).starts_with("[template] f: line "), "errors name the place");
  }
}

}  // namespace mtpx_test
