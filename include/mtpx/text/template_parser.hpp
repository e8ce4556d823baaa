#pragma once
// From the tokens of a chat template to what it says.

#include <mtpx/text/template_expressions.hpp>

#include <initializer_list>

namespace mtpx::detail {

class TemplateParser : private TemplateExpressions {
 public:
  explicit TemplateParser(std::vector<TemplateToken> tokens) : TemplateExpressions(std::move(tokens)) {}

  std::vector<TemplateStatement> read() { return body({}); }

 private:
  using Statement = TemplateStatement;

  /// Up to a tag that begins with one of `ends`, whose name is read.
  std::vector<Statement> body(std::initializer_list<std::string_view> ends) {
    const Deeper deeper(*this);
    std::vector<Statement> all;
    while (true) {
      const TemplateToken& first = token();
      if (first.kind == Kind::end) {
        if (ends.size() == 0) return all;
        fail(first.at, "the template ends where '", *(ends.end() - 1), "' should stand");
      }
      if (first.kind == Kind::data) {
        all.push_back({Statement::Kind::text, first.at, first.text});
        ++next_;
      } else if (first.kind == Kind::print_begin) {
        ++next_;
        Statement print{Statement::Kind::print, first.at};
        print.expressions.push_back(tuple(true));
        want(Kind::print_end);
        all.push_back(std::move(print));
      } else {
        ++next_;
        for (const std::string_view end : ends) {
          if (word(end)) return all;
        }
        all.push_back(statement());
      }
    }
  }

  Statement statement() {
    const std::size_t place = token().at;
    const std::string tag = want_name();
    Statement made{Statement::Kind::text, place};
    if (tag == "if") {
      read_condition(made);
    } else if (tag == "for") {
      read_loop(made);
    } else if (tag == "set") {
      read_set(made);
    } else if (tag == "macro") {
      read_macro(made);
    } else if (tag == "generation") {
      made.kind = Statement::Kind::group;
      read_inner(made, {"endgeneration"});
      end_tag("endgeneration");
    } else if (tag == "break" || tag == "continue") {
      if (loops_ == 0) fail(place, "'", tag, "' outside of a loop");
      made.kind = tag == "break" ? Statement::Kind::leave : Statement::Kind::go_on;
      want(Kind::tag_end);
    } else {
      fail(place, "the tag '", tag, "'");
    }
    return made;
  }

  /// The rest of the tag that begins a body, and that body.
  void read_body(Statement& made, std::initializer_list<std::string_view> ends) {
    want(Kind::tag_end);
    made.bodies.push_back(body(ends));
  }
  /// The same where names that are set are its own.   loops: that may be left there
  void read_inner(Statement& made, std::initializer_list<std::string_view> ends, int loops = 0) {
    const int outer = std::exchange(loops_, loops);
    ++inner_;
    read_body(made, ends);
    --inner_;
    loops_ = outer;
  }
  void end_tag(std::string_view name) {
    want(Kind::name, name);
    want(Kind::tag_end);
  }

  void read_condition(Statement& made) {
    made.kind = Statement::Kind::condition;
    do {
      made.expressions.push_back(tuple(false));
      read_body(made, {"elif", "else", "endif"});
    } while (skip(Kind::name, "elif"));
    if (skip(Kind::name, "else")) read_body(made, {"endif"});
    end_tag("endif");
  }

  void read_loop(Statement& made) {
    made.kind = Statement::Kind::loop;
    do {
      if (word("in")) break;  // behind a last comma
      made.targets.push_back(target());
    } while (skip(Kind::sign, ","));
    want(Kind::name, "in");
    made.expressions.push_back(tuple(false));
    if (skip(Kind::name, "if")) made.expressions.push_back(expression(true));
    if (word("recursive")) fail(token().at, "a loop that is recursive");
    read_inner(made, {"else", "endfor"}, loops_ + 1);
    if (skip(Kind::name, "else")) read_inner(made, {"endfor"}, loops_);
    end_tag("endfor");
  }

  std::string target() {
    const std::size_t place = token().at;
    std::string name = want_name();
    if (is_one_of(" true false none True False None loop ", name)) fail(place, "'", name, "' cannot be set");
    return name;
  }

  void read_set(Statement& made) {
    made.kind = Statement::Kind::set;
    do {
      made.targets.push_back(target());
      if (!skip(Kind::sign, ".")) continue;
      made.text = std::exchange(made.targets.back(), want_name());
      if (sign(",") || made.targets.size() > 1)
        fail(token().at, "attributes among several names that are set");
    } while (skip(Kind::sign, ","));
    if (skip(Kind::sign, "=")) {
      made.expressions.push_back(tuple(true));
      return want(Kind::tag_end);
    }
    made.kind = Statement::Kind::set_block;
    Node what{Node::Kind::captured, made.at};
    while (sign("|")) what = filter(std::move(what));
    made.expressions.push_back(std::move(what));
    read_inner(made, {"endset"});
    end_tag("endset");
  }

  void read_macro(Statement& made) {
    made.kind = Statement::Kind::macro;
    if (inner_ > 0) fail(made.at, "a macro inside of a loop, a block of set or another macro");
    made.text = target();
    want(Kind::sign, "(");
    while (!skip(Kind::sign, ")")) {
      if (!made.targets.empty()) want(Kind::sign, ",");
      if (skip(Kind::sign, ")")) break;
      made.targets.push_back(target());
      if (skip(Kind::sign, "=")) {
        made.expressions.push_back(expression(true));
      } else if (!made.expressions.empty()) {
        fail(token().at, "an argument without a default behind one that has it");
      }
    }
    in_macro_ = true;
    read_inner(made, {"endmacro"});
    in_macro_ = false;
    end_tag("endmacro");
  }

  int loops_ = 0, inner_ = 0;
};

}  // namespace mtpx::detail
