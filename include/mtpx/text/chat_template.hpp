#pragma once
// The template with which a model's conversations are written as one text.

#include <mtpx/text/template_run.hpp>
#include <mtpx/text/template_scopes.hpp>
#include <mtpx/text/utf8.hpp>

namespace mtpx {

/// A chat template: the part of Jinja in which published models say how a conversation is written. Its text
/// is that of transformers' apply_chat_template (jinja2 with trim_blocks and lstrip_blocks, loopcontrols, and
/// transformers' tojson, raise_exception, strftime_now and generation), or it is refused: a construct that is
/// not known, or not done exactly, is a FileError that names it with line and column (docs/chat.md lists
/// them).
///
///   const ChatTemplate chat(text, "chat_template.jinja");
///   chat.render({{"messages", messages}, {"add_generation_prompt", true}, {"bos_token", "<s>"}});
///
/// A handle: copies share what it stands for, which never changes, so threads may share it.
class ChatTemplate {
 public:
  /// Throws FileError "[template] name: line 1, column 2: cause".   name: how errors call it, a file's path
  ChatTemplate(std::string_view text, std::string name, TemplateLimits limits = {})
      : state_(std::make_shared<State>(State{std::move(name), detail::template_source(text), limits, {}})) {
    if (text.size() > static_cast<std::size_t>(limits.bytes))
      fail(0, cat("a text of more than ", limits.bytes, " bytes"));
    const std::size_t sound = detail::utf8_prefix(state_->source);
    if (sound != state_->source.size()) fail(sound, "not UTF-8");
    try {
      detail::TemplateParser parser(detail::TemplateLexer(state_->source).tokens());
      state_->program = detail::TemplateScopes::mark(parser.read());
    } catch (const detail::PlacedTemplateFault& fault) {
      fail(fault.at, cat(fault.text, not_supported(fault.text)));
    }
  }

  /// The text that it makes of variables: messages, a list of mappings with role and content,
  /// add_generation_prompt, bos_token and whatever else it asks for.   now: the time of strftime_now
  ///
  /// Throws FileError, as the constructor does, where the template raises an exception, asks for what this
  /// does not do, or exceeds its limits.
  std::string render(const TemplateValue::Pairs& variables, std::time_t now = std::time(nullptr)) const {
    try {
      return detail::TemplateRun(variables, state_->limits, now).run(state_->program);
    } catch (const detail::PlacedTemplateFault& fault) {
      fail(fault.at, fault.text);
    }
  }

  /// How errors call it.
  const std::string& name() const { return state_->name; }

 private:
  struct State {
    std::string name, source;
    TemplateLimits limits;
    detail::TemplateProgram program;
  };

  /// Constructs are named alone; what is wrong with one says so itself.
  static const char* not_supported(std::string_view text) {
    for (const std::string_view kind :
         {"the tag ", "the filter ", "the test ", "the name ", "the operator ", "the escape '\\N"}) {
      if (text.starts_with(kind)) return " is not supported";
    }
    return "";
  }

  [[noreturn]] void fail(std::size_t at, const std::string& cause) const {
    const std::string_view before = std::string_view(state_->source).substr(0, at);
    const auto line = std::count(before.begin(), before.end(), '\n');
    const Index column = detail::count_characters(before.substr(before.rfind('\n') + 1));
    throw FileError(
        cat("[template] ", state_->name, ": line ", line + 1, ", column ", column + 1, ": ", cause));
  }

  std::shared_ptr<State> state_;
};

}  // namespace mtpx
