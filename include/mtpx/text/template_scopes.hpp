#pragma once
// Which names of a chat template are unset where a scope begins. In Jinja a name belongs to a scope that sets
// it outside of any `if` before it reads it: until then it is undefined there and in the scopes inside,
// whatever it means outside, unless a scope outside reads or sets it, too.

#include <mtpx/text/template_tree.hpp>

#include <set>

namespace mtpx::detail {

/// Finds them.
class TemplateScopes {
 public:
  static TemplateProgram mark(std::vector<TemplateStatement> body) {
    TemplateProgram program{std::move(body)};
    program.unset = TemplateScopes(nullptr).read(program.body);
    return program;
  }

 private:
  using Statement = TemplateStatement;
  using Names = std::set<std::string>;

  explicit TemplateScopes(const TemplateScopes* outside) : outside_(outside) {}

  /// All of a scope, then those inside.
  std::vector<std::string> read(std::vector<Statement>& body) {
    for (const Statement& s : body) see(s);
    for (Statement& s : body) enter(s);
    return {unset_.begin(), unset_.end()};
  }

  bool knows(const std::string& name) const {
    for (const TemplateScopes* at = this; at != nullptr; at = at->outside_) {
      if (at->known_.contains(name)) return true;
    }
    return false;
  }
  void reads(const TemplateNode& n) {
    if (n.kind == TemplateNode::Kind::name) known_.insert(n.name);
    for (const TemplateNode& part : n.parts) reads(part);
  }
  void sets(const std::string& name) {
    if (branches_ == 0 && !knows(name)) unset_.insert(name);
    known_.insert(name);
  }

  void see(const Statement& s) {
    using Kind = Statement::Kind;
    if (s.kind == Kind::print || s.kind == Kind::set || s.kind == Kind::loop) reads(s.expressions[0]);
    if (s.kind == Kind::macro) sets(s.text);
    if (s.kind == Kind::condition) {
      for (const TemplateNode& test : s.expressions) reads(test);
      ++branches_;
      for (const auto& branch : s.bodies) {
        for (const Statement& inner : branch) see(inner);
      }
      --branches_;
    }
    if (s.kind != Kind::set && s.kind != Kind::set_block) return;
    if (!s.text.empty()) return void(known_.insert(s.text));
    for (const std::string& name : s.targets) sets(name);
  }

  void enter(Statement& s) {
    using Kind = Statement::Kind;
    if (s.kind == Kind::condition) {
      for (auto& branch : s.bodies) {
        for (Statement& inner : branch) enter(inner);
      }
      return;
    }
    for (std::size_t i = 0; i < s.bodies.size(); ++i) {
      TemplateScopes inside(this);
      std::vector<std::string> given;
      if (s.kind == Kind::macro || (s.kind == Kind::loop && i == 0)) given = s.targets;
      if (s.kind == Kind::loop && i == 0) given.emplace_back("loop");
      inside.known_.insert(given.begin(), given.end());
      for (const TemplateNode& otherwise : s.expressions) {
        if (s.kind == Kind::macro) inside.reads(otherwise);
      }
      s.unset.push_back(inside.read(s.bodies[i]));
    }
  }

  const TemplateScopes* outside_;
  Names known_, unset_;
  int branches_ = 0;  // around what is read
};

}  // namespace mtpx::detail
