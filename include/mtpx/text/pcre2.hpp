#pragma once
// Patterns of tokenizer files by PCRE2 (Debian: libpcre2-dev; link pcre2-8). Nothing else here needs it, and
// where it is not installed this header is empty.
#if __has_include(<pcre2.h>)

#include <mtpx/core/error.hpp>
#include <mtpx/text/pattern.hpp>
#include <mtpx/text/split.hpp>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

namespace mtpx {

namespace detail {

inline std::string pcre2_message(int code) {
  std::array<unsigned char, 200> text{};
  pcre2_get_error_message_8(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

/// What one thread matches with.
class Pcre2Scratch {
 public:
  static constexpr std::uint32_t most_steps = 10'000'000;  // of one match; Oniguruma's limit of retries

  Pcre2Scratch()
      : data_(pcre2_match_data_create_8(1, nullptr)),
        context_(pcre2_match_context_create_8(nullptr)),
        stack_(pcre2_jit_stack_create_8(32 << 10, 8 << 20, nullptr)) {
    if (data_ == nullptr || context_ == nullptr) throw std::bad_alloc();
    pcre2_set_match_limit_8(context_, most_steps);
    if (stack_ != nullptr) pcre2_jit_stack_assign_8(context_, nullptr, stack_);
  }
  Pcre2Scratch(const Pcre2Scratch&) = delete;
  Pcre2Scratch& operator=(const Pcre2Scratch&) = delete;
  ~Pcre2Scratch() {
    pcre2_jit_stack_free_8(stack_);
    pcre2_match_context_free_8(context_);
    pcre2_match_data_free_8(data_);
  }

  pcre2_match_data_8* data() const { return data_; }
  pcre2_match_context_8* context() const { return context_; }

 private:
  pcre2_match_data_8* data_;
  pcre2_match_context_8* context_;
  pcre2_jit_stack_8* stack_;
};

}  // namespace detail

/// What finds a tokenizer's pattern. Texts must be valid UTF-8: that is not checked again. Matching throws
/// Error when a text costs more steps than most_steps; building throws ConfigError for what to_pcre2()
/// refuses and what PCRE2 cannot compile.
inline FindMatches pcre2_matches(const std::string& pattern) {
  const std::string text = to_pcre2(pattern);
  int error = 0;
  std::size_t place = 0;
  const std::shared_ptr<pcre2_code_8> code(
      pcre2_compile_8(reinterpret_cast<PCRE2_SPTR8>(text.data()), text.size(), PCRE2_UTF | PCRE2_UCP, &error,
                      &place, nullptr),
      [](pcre2_code_8* compiled) { pcre2_code_free_8(compiled); });
  if (code == nullptr) {
    throw ConfigError(
        cat("[tokenizer] the pattern ", pattern, " is refused by PCRE2: ", detail::pcre2_message(error)));
  }
  // Without JIT the same matches come, more slowly.
  const bool jit = pcre2_jit_compile_8(code.get(), PCRE2_JIT_COMPLETE) == 0;
  return [code, pattern, jit](std::string_view subject, std::vector<Match>& matches) {
    thread_local const detail::Pcre2Scratch scratch;
    const auto* const bytes = reinterpret_cast<PCRE2_SPTR8>(subject.data());
    const std::size_t* const found = pcre2_get_ovector_pointer_8(scratch.data());
    // Oniguruma's iterator: an empty match right behind the last one does not count, the search goes on a
    // character further.
    for (std::size_t at = 0, last = PCRE2_UNSET; at <= subject.size();) {
      const int result = (jit ? pcre2_jit_match_8 : pcre2_match_8)(
          code.get(), bytes, subject.size(), at, PCRE2_NO_UTF_CHECK, scratch.data(), scratch.context());
      if (result == PCRE2_ERROR_NOMATCH) return;
      if (result < 0) {
        throw Error(cat("[tokenizer] the pattern ", pattern, " fails at byte ", at, " of a text of ",
                        subject.size(), " bytes: ", detail::pcre2_message(result)));
      }
      const Match match{found[0], found[1]};
      if (match.begin == match.end && match.end == last) {
        do {
          ++at;
        } while (at < subject.size() && (static_cast<unsigned char>(subject[at]) & 0xc0U) == 0x80U);
        continue;
      }
      at = last = match.end;
      matches.push_back(match);
    }
  };
}

}  // namespace mtpx

#endif  // __has_include(<pcre2.h>)
