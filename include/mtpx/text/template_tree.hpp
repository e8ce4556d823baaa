#pragma once
// What a chat template says, once it is read.

#include <mtpx/text/template_value.hpp>

namespace mtpx::detail {

/// An expression.
struct TemplateNode {
  enum class Kind {
    constant,
    name,         // name
    captured,     // what a block of set holds, before its filters
    list,         // parts
    tuple,        // parts
    mapping,      // parts: key, value, key, ...
    attribute,    // parts[0].name
    item,         // parts[0][parts[1]]
    slice,        // parts[0][parts[1] : parts[2] : parts[3]]
    call,         // parts[0](parts[1 ...]); the last ones by the `names`
    filter,       // the same: name(parts[0], ...)
    test,         // the same: parts[0] is name(...)
    unary,        // name parts[0]
    binary,       // parts[0] name parts[1]
    compare,      // parts[0] names[0] parts[1] names[1] ...
    conditional,  // parts[1] if parts[0] else parts[2]
  };
  Kind kind = Kind::constant;
  std::size_t at = 0;
  std::string name{};
  TemplateValue value{};
  std::vector<TemplateNode> parts{};
  std::vector<std::string> names{};
  int depth = 0;
};

struct TemplateStatement {
  enum class Kind { text, print, condition, loop, set, set_block, macro, group, leave, go_on };
  Kind kind = Kind::text;
  std::size_t at = 0;
  std::string text{};                  // that is written; a macro's name; the namespace that is set
  std::vector<std::string> targets{};  // that are set; a macro's arguments
  /// print: one   condition: one a branch   loop: what it goes through, and an `if`   set: one   macro: what
  /// the last arguments default to
  std::vector<TemplateNode> expressions{};
  /// a condition's branches, then else; of others one; loop: else, too
  std::vector<std::vector<TemplateStatement>> bodies{};
  std::vector<std::vector<std::string>> unset{};  // names, where these begin: TemplateScopes
};

struct TemplateProgram {
  std::vector<TemplateStatement> body{};
  std::vector<std::string> unset{};
};

}  // namespace mtpx::detail
