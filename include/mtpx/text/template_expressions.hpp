#pragma once
// The expressions of a chat template: Jinja's grammar, as far as templates of models use it. A construct that
// is not known is a fault that names it.

#include <mtpx/text/template_lexer.hpp>
#include <mtpx/text/template_library.hpp>
#include <mtpx/text/template_tree.hpp>

namespace mtpx::detail {

/// Reads expressions from tokens.
class TemplateExpressions {
 protected:
  explicit TemplateExpressions(std::vector<TemplateToken> tokens) : tokens_(std::move(tokens)) {}

  using Node = TemplateNode;
  using Kind = TemplateToken::Kind;

  template <typename... Parts>
  [[noreturn]] void fail(std::size_t at, const Parts&... parts) const {
    throw PlacedTemplateFault{at, cat(parts...)};
  }
  const TemplateToken& token(std::size_t ahead = 0) const {
    return tokens_[std::min(next_ + ahead, tokens_.size() - 1)];
  }
  bool at(Kind kind, std::string_view text, std::size_t ahead = 0) const {
    return token(ahead).kind == kind && token(ahead).text == text;
  }
  bool word(std::string_view text, std::size_t ahead = 0) const { return at(Kind::name, text, ahead); }
  bool sign(std::string_view text, std::size_t ahead = 0) const { return at(Kind::sign, text, ahead); }
  bool skip(Kind kind, std::string_view text) {
    const bool there = at(kind, text);
    next_ += there ? 1 : 0;
    return there;
  }
  std::string shown() const {
    switch (token().kind) {
      case Kind::name:
      case Kind::sign:
        return cat('\'', token().text, '\'');
      case Kind::string:
        return "a string";
      case Kind::number:
        return "a number";
      default:
        return "the end of the tag";
    }
  }
  void want(Kind kind, std::string_view text = "") {
    if (token().kind != kind || (!text.empty() && token().text != text))
      fail(token().at, shown(), " where ",
           text.empty() ? "the tag should end" : cat('\'', text, "' should stand"));
    ++next_;
  }
  std::string want_name() {
    if (token().kind != Kind::name) fail(token().at, shown(), " where a name should stand");
    return tokens_[next_++].text;
  }

  /// Counts how deep what is being read is nested.
  class Deeper {
   public:
    explicit Deeper(TemplateExpressions& parser) : parser_(parser) {
      if (++parser.depth_ > most_depth)
        parser.fail(parser.token().at, "what is nested deeper than ", most_depth);
    }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;
    ~Deeper() { --parser_.depth_; }

   private:
    TemplateExpressions& parser_;
  };

  Node node(Node::Kind kind, std::size_t place, std::vector<Node> parts, std::string name = "") const {
    Node made{kind, place, std::move(name), {}, std::move(parts)};
    for (const Node& part : made.parts) made.depth = std::max(made.depth, part.depth + 1);
    if (made.depth > most_depth) fail(place, "an expression nested deeper than ", most_depth);
    return made;
  }
  static std::vector<Node> pair(Node a, Node b) {
    std::vector<Node> both;
    both.push_back(std::move(a));
    both.push_back(std::move(b));
    return both;
  }

  // From what binds least to what binds most.

  /// An expression, or several with commas between, which are a tuple.   conditions: whether `a if b` is one
  Node tuple(bool conditions, bool in_brackets = false) {
    const std::size_t place = token().at;
    std::vector<Node> parts;
    bool several = false;
    while (true) {
      const Kind kind = token().kind;
      if (kind == Kind::print_end || kind == Kind::tag_end || sign(")") || word("recursive")) break;
      parts.push_back(expression(conditions));
      if (!skip(Kind::sign, ",")) break;
      several = true;
    }
    if (!several && parts.size() == 1) return std::move(parts[0]);
    if (!several && !in_brackets) fail(place, shown(), " where an expression should stand");
    return node(Node::Kind::tuple, place, std::move(parts));
  }

  Node expression(bool conditions) {
    const Deeper deeper(*this);
    Node left = either();
    while (conditions && word("if")) {
      const std::size_t place = tokens_[next_++].at;
      Node test = either();
      std::vector<Node> parts = pair(std::move(test), std::move(left));
      if (skip(Kind::name, "else")) parts.push_back(expression(true));
      left = node(Node::Kind::conditional, place, std::move(parts));
    }
    return left;
  }

  /// Operands of `next` with operators between that group to the left.   is: whether the token is one
  template <typename Is, typename Next>
  Node left_to_right(const Is& is, const Next& next) {
    Node left = next();
    while (is()) {
      const std::size_t place = token().at;
      std::string name = tokens_[next_++].text;
      Node right = next();
      left = node(Node::Kind::binary, place, pair(std::move(left), std::move(right)), std::move(name));
    }
    return left;
  }
  Node either() {
    return left_to_right([&] { return word("or"); }, [&] { return both(); });
  }
  Node both() {
    return left_to_right([&] { return word("and"); }, [&] { return negated(); });
  }
  Node negated() {
    if (!word("not")) return comparison();
    const Deeper deeper(*this);
    const std::size_t place = tokens_[next_++].at;
    std::vector<Node> parts;
    parts.push_back(negated());
    return node(Node::Kind::unary, place, std::move(parts), "not");
  }
  Node comparison() {
    Node made = sum();
    std::vector<Node> parts;
    std::vector<std::string> names;
    const std::size_t place = token().at;
    while (true) {
      std::string name;
      if (token().kind == Kind::sign && is_one_of(" == != < <= > >= ", token().text)) name = token().text;
      if (word("in")) name = "in";
      if (word("not") && word("in", 1)) name = "not in";
      if (name.empty()) break;
      next_ += name == "not in" ? 2 : 1;
      names.push_back(std::move(name));
      parts.push_back(sum());
    }
    if (names.empty()) return made;
    parts.insert(parts.begin(), std::move(made));
    Node all = node(Node::Kind::compare, place, std::move(parts));
    all.names = std::move(names);
    return all;
  }
  Node sum() {
    return left_to_right([&] { return sign("+") || sign("-"); }, [&] { return joined(); });
  }
  Node joined() {
    return left_to_right([&] { return sign("~"); }, [&] { return product(); });
  }
  Node product() {
    return left_to_right([&] { return sign("*") || sign("/") || sign("//") || sign("%"); },
                         [&] { return power(); });
  }
  Node power() {
    Node made = signed_value(true);
    if (sign("**")) fail(token().at, "the operator '**'");
    return made;
  }
  Node signed_value(bool filters) {
    Node made;
    if (sign("-") || sign("+")) {
      const Deeper deeper(*this);
      const TemplateToken& first = tokens_[next_++];
      std::vector<Node> parts;
      parts.push_back(signed_value(false));
      made = node(Node::Kind::unary, first.at, std::move(parts), first.text);
    } else {
      made = primary();
    }
    made = postfix(std::move(made));
    while (filters) {
      if (sign("|")) {
        made = filter(std::move(made));
      } else if (word("is")) {
        made = test(std::move(made));
      } else if (sign("(")) {
        made = call(std::move(made));
      } else {
        break;
      }
    }
    return made;
  }

  Node constant(std::size_t place, TemplateValue value) const {
    Node made{Node::Kind::constant, place};
    made.value = std::move(value);
    return made;
  }

  Node primary() {
    const TemplateToken& first = token();
    if (first.kind == Kind::name) {
      ++next_;
      if (is_one_of(" true True false False ", first.text))
        return constant(first.at, first.text[0] == 't' || first.text[0] == 'T');
      if (first.text == "none" || first.text == "None") return constant(first.at, nullptr);
      if (is_one_of(" lipsum cycler joiner self super ", first.text) ||
          (in_macro_ && is_one_of(" varargs kwargs caller ", first.text)))
        fail(first.at, "the name '", first.text, "'");
      return node(Node::Kind::name, first.at, {}, first.text);
    }
    if (first.kind == Kind::string) {
      std::string text;
      while (token().kind == Kind::string) text += tokens_[next_++].text;
      return constant(first.at, std::move(text));
    }
    if (first.kind == Kind::number) return constant(first.at, tokens_[next_++].value);
    if (skip(Kind::sign, "(")) {
      Node made = tuple(true, true);
      want(Kind::sign, ")");
      return made;
    }
    const bool list = sign("["), mapping = sign("{");
    if (!list && !mapping) fail(first.at, shown(), " where a value should stand");
    ++next_;
    const std::string_view end = list ? "]" : "}";
    std::vector<Node> parts;
    while (!skip(Kind::sign, end)) {
      if (!parts.empty()) want(Kind::sign, ",");
      if (skip(Kind::sign, end)) break;
      parts.push_back(expression(true));
      if (list) continue;
      want(Kind::sign, ":");
      parts.push_back(expression(true));
    }
    return node(list ? Node::Kind::list : Node::Kind::mapping, first.at, std::move(parts));
  }

  Node postfix(Node made) {
    while (true) {
      const std::size_t place = token().at;
      if (skip(Kind::sign, ".")) {
        std::vector<Node> parts;
        parts.push_back(std::move(made));
        if (token().kind == Kind::number && token().value.integer() != nullptr) {
          parts.push_back(constant(token().at, tokens_[next_++].value));
          made = node(Node::Kind::item, place, std::move(parts));
        } else {
          made = node(Node::Kind::attribute, place, std::move(parts), want_name());
        }
      } else if (skip(Kind::sign, "[")) {
        made = subscript(std::move(made), place);
      } else if (sign("(")) {
        made = call(std::move(made));
      } else {
        return made;
      }
    }
  }

  Node subscript(Node made, std::size_t place) {
    std::vector<Node> parts;
    parts.push_back(std::move(made));
    bool slice = false;
    for (int i = 0; i < 3; ++i) {
      const bool missing = sign(":") || sign("]");
      if (missing && i == 0 && sign("]")) fail(token().at, "']' where an index should stand");
      parts.push_back(missing ? constant(token().at, nullptr) : expression(true));
      if (!skip(Kind::sign, ":")) break;
      slice = true;
    }
    if (sign(",")) fail(token().at, "an index of several values");
    want(Kind::sign, "]");
    while (slice && parts.size() < 4) parts.push_back(constant(place, nullptr));
    return node(slice ? Node::Kind::slice : Node::Kind::item, place, std::move(parts));
  }

  /// Arguments in brackets, added to parts; returns the names of the last ones.
  std::vector<std::string> arguments(std::vector<Node>& parts) {
    std::vector<std::string> names;
    want(Kind::sign, "(");
    for (bool first = true; !skip(Kind::sign, ")"); first = false) {
      if (!first) want(Kind::sign, ",");
      if (skip(Kind::sign, ")")) break;
      if (sign("*") || sign("**")) fail(token().at, "arguments after '", token().text, "'");
      if (token().kind == Kind::name && sign("=", 1)) {
        names.push_back(token().text);
        next_ += 2;
      } else if (!names.empty()) {
        fail(token().at, "an argument without a name behind one with a name");
      }
      parts.push_back(expression(true));
    }
    return names;
  }

  Node with_arguments(Node::Kind kind, std::size_t place, std::vector<Node> parts, std::string name) {
    std::vector<std::string> names;
    if (sign("(")) names = arguments(parts);
    Node made = node(kind, place, std::move(parts), std::move(name));
    made.names = std::move(names);
    return made;
  }

  Node call(Node made) {
    std::vector<Node> parts;
    const std::size_t place = made.at;
    parts.push_back(std::move(made));
    return with_arguments(Node::Kind::call, place, std::move(parts), "");
  }

  Node filter(Node made) {
    want(Kind::sign, "|");
    const std::size_t place = token().at;
    const std::string name = want_name();
    if (!is_one_of(template_filters, name)) fail(place, "the filter '", name, "'");
    std::vector<Node> parts;
    parts.push_back(std::move(made));
    return with_arguments(Node::Kind::filter, place, std::move(parts), name);
  }

  Node test(Node made) {
    const std::size_t place = token().at;
    want(Kind::name, "is");
    const bool negated = skip(Kind::name, "not");
    const std::string name = want_name();
    if (!is_one_of(template_tests, name)) fail(place, "the test '", name, "'");
    std::vector<Node> parts;
    parts.push_back(std::move(made));
    Node all;
    const Kind kind = token().kind;
    const bool value =
        kind == Kind::name || kind == Kind::string || kind == Kind::number || sign("[") || sign("{");
    if (!sign("(") && value && !word("else") && !word("or") && !word("and")) {
      if (word("is")) fail(token().at, "a test of a test");
      Node argument = primary();
      parts.push_back(postfix(std::move(argument)));
      all = node(Node::Kind::test, place, std::move(parts), name);
    } else {
      all = with_arguments(Node::Kind::test, place, std::move(parts), name);
    }
    if (!negated) return all;
    std::vector<Node> inner;
    inner.push_back(std::move(all));
    return node(Node::Kind::unary, place, std::move(inner), "not");
  }

  static constexpr int most_depth = 100;

  std::vector<TemplateToken> tokens_;
  std::size_t next_ = 0;
  int depth_ = 0;
  bool in_macro_ = false;
};

}  // namespace mtpx::detail
