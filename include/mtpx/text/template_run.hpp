#pragma once
// Runs a chat template: names, scopes, loops, macros and operators as Jinja has them. A name is looked up
// where it is used, outwards; loops, macros and blocks of set have names of their own, `if` has not.

#include <mtpx/text/template_filters.hpp>
#include <mtpx/text/template_operators.hpp>
#include <mtpx/text/template_parser.hpp>

#include <deque>
#include <limits>

namespace mtpx::detail {

class TemplateRun {
 public:
  /// variables: by name   now: for strftime_now
  TemplateRun(const TemplateValue::Pairs& variables, TemplateLimits limits, std::time_t now)
      : variables_(variables), now_(now), work_(limits) {}

  /// Throws PlacedTemplateFault.
  std::string run(const TemplateProgram& program) {
    begin_scope(program.unset);
    run_all(program.body);
    return std::move(out_);
  }

 private:
  using Node = TemplateNode;
  using Statement = TemplateStatement;
  using Value = TemplateValue;
  using List = TemplateValue::List;
  using Sequence = TemplateValue::Sequence;
  enum class Flow { on, leave, next };

  struct Scope {
    Value::Pairs names{};
    bool alone = false;  // of a macro: it sees the template's outermost names, not its caller's
  };

  static Value nothing(std::string text) { return Value::Undefined{std::move(text)}; }
  static Value undefined(const std::string& name) { return nothing(cat('\'', name, "' is undefined")); }

  // --- Statements ---

  Flow run_all(const std::vector<Statement>& body) {
    for (const Statement& s : body) {
      Flow flow = Flow::on;
      try {
        work_.steps(1);
        flow = run_one(s);
      } catch (const TemplateFault& fault) {
        throw PlacedTemplateFault{s.at, fault.text};
      }
      if (flow != Flow::on) return flow;
    }
    return Flow::on;
  }

  Flow run_one(const Statement& s) {
    switch (s.kind) {
      case Statement::Kind::text:
        write(s.text);
        break;
      case Statement::Kind::print:
        write(text_of(value(s.expressions[0]), work_));
        break;
      case Statement::Kind::condition: {
        std::size_t branch = 0;
        while (branch < s.expressions.size() && !truth(value(s.expressions[branch]))) ++branch;
        return branch < s.bodies.size() ? run_all(s.bodies[branch]) : Flow::on;
      }
      case Statement::Kind::loop:
        return run_loop(s);
      case Statement::Kind::set:
        set(s, value(s.expressions[0]));
        break;
      case Statement::Kind::set_block: {
        captured_ = capture([&] { run_inside(s, 0); });
        const Value filtered = value(s.expressions[0]);
        set(s, filtered);
        break;
      }
      case Statement::Kind::macro:
        set_name(s.text, Value::Function{&s, s.text});
        break;
      case Statement::Kind::group:
        run_inside(s, 0);
        break;
      case Statement::Kind::leave:
        return Flow::leave;
      case Statement::Kind::go_on:
        return Flow::next;
    }
    return Flow::on;
  }

  void write(std::string_view text) {
    work_.bytes(out_.size() + text.size() > work_.most() ? out_.size() + text.size() : text.size());
    out_ += text;
  }

  /// What `write` writes, instead of writing it.
  template <typename Write>
  std::string capture(const Write& write) {
    std::string outer = std::exchange(out_, "");
    write();
    return std::exchange(out_, std::move(outer));
  }

  void begin_scope(const std::vector<std::string>& unset, bool alone = false) {
    scopes_.push_back({{}, alone});
    for (const std::string& name : unset) scopes_.back().names.emplace_back(name, undefined(name));
  }

  /// A body of a statement, with names of its own.
  Flow run_inside(const Statement& s, std::size_t body) {
    begin_scope(s.unset[body]);
    const Flow flow = run_all(s.bodies[body]);
    scopes_.pop_back();
    return flow;
  }

  /// names[name] = what
  void put(Value::Pairs& names, const std::string& name, Value what) {
    work_.steps(names.size() / 64);
    for (auto& [known, value] : names) {
      if (known == name) return void(value = std::move(what));
    }
    names.emplace_back(name, std::move(what));
  }
  void set_name(const std::string& name, Value what) { put(scopes_.back().names, name, std::move(what)); }

  void set(const Statement& s, const Value& what) {
    if (!s.text.empty()) {
      TemplateNamespace* const space = look_up(s.text).space();
      if (space == nullptr || space->loop != nullptr)
        template_fault("'", s.text, "' is no namespace, so its attributes cannot be set");
      return put(space->values, s.targets[0], what);
    }
    set_targets(s.targets, what);
  }

  void set_targets(const std::vector<std::string>& targets, const Value& what) {
    if (targets.size() == 1) return set_name(targets[0], what);
    const List items = items_of(what, work_);
    if (items.items.size() != targets.size())
      template_fault(items.items.size(), " values for ", targets.size(), " names");
    for (std::size_t i = 0; i < targets.size(); ++i) set_name(targets[i], items.items[i]);
  }

  Flow run_loop(const Statement& s) {
    List items = items_of(value(s.expressions[0]), work_);
    if (s.expressions.size() > 1) {
      List wanted;
      for (const Value& item : items.items) {
        scopes_.push_back({});
        set_targets(s.targets, item);
        if (truth(value(s.expressions[1]))) wanted.items.push_back(item);
        scopes_.pop_back();
      }
      items = std::move(wanted);
    }
    if (items.items.empty()) return s.bodies.size() > 1 ? run_inside(s, 1) : Flow::on;
    spaces_.push_back({});
    TemplateNamespace& loop = spaces_.back();
    loop.loop = &items;
    Flow flow = Flow::on;
    for (loop.at = 0; loop.at < items.items.size() && flow != Flow::leave; ++loop.at) {
      begin_scope(s.unset[0]);
      set_targets(s.targets, items.items[loop.at]);
      set_name("loop", &loop);
      flow = run_all(s.bodies[0]);
      scopes_.pop_back();
    }
    ended_ = List();
    loop.loop = &ended_;
    return Flow::on;
  }

  // --- Names ---

  Value look_up(const std::string& name) const {
    const auto in = [&](const Value::Pairs& names) -> const Value* {
      work_.steps(names.size() / 64);
      for (const auto& [known, value] : names) {
        if (known == name) return &value;
      }
      return nullptr;
    };
    for (std::size_t i = scopes_.size(); i-- > 0;) {
      if (const Value* const found = in(scopes_[i].names)) return *found;
      if (scopes_[i].alone) i = 1;
    }
    if (const Value* const found = in(variables_)) return *found;
    constexpr std::string_view functions = " namespace range dict raise_exception strftime_now ";
    if (is_one_of(functions, name))
      return Value::Function{nullptr, std::string_view(functions).substr(functions.find(name), name.size())};
    return undefined(name);
  }

  Value loop_attribute(const TemplateNamespace& loop, std::string_view name) const {
    const auto at = static_cast<Index>(loop.at), count = static_cast<Index>(loop.loop->items.size());
    if (count == 0) template_fault("a loop that has ended");
    if (name == "index") return at + 1;
    if (name == "index0") return at;
    if (name == "revindex") return count - at;
    if (name == "revindex0") return count - at - 1;
    if (name == "first") return at == 0;
    if (name == "last") return at + 1 == count;
    if (name == "length") return count;
    if (name == "depth") return Index{1};  // only of loops that are recursive it would grow
    if (name == "depth0") return Index{0};
    if (name == "previtem")
      return at > 0 ? loop.loop->items[loop.at - 1] : nothing("there is no previous item");
    if (name == "nextitem")
      return at + 1 < count ? loop.loop->items[loop.at + 1] : nothing("there is no next item");
    template_fault("'loop.", name, "'");
  }

  /// v.name
  Value attribute(const Value& v, const std::string& name) const {
    if (v.undefined() != nullptr) template_fault(v.undefined()->text);
    if (name.starts_with("__")) template_fault("the attribute '", name, "'");
    if (v.mapping() != nullptr) work_.steps(v.mapping()->size() / 64);
    if (v.space() != nullptr) {
      work_.steps(v.space()->values.size() / 64);
      if (v.space()->loop != nullptr) return loop_attribute(*v.space(), name);
      for (const auto& [known, value] : v.space()->values) {
        if (known == name) return value;
      }
    }
    if (has_method(v, name) || v.function() != nullptr)
      template_fault("'", name, "' of ", v.kind(), " without a call");
    if (const Value* const found = v.find(name)) return *found;
    return nothing(cat(v.kind(), " has no '", name, "'"));
  }

  /// v[key]
  Value item(const Value& v, const Value& key) const {
    if (v.undefined() != nullptr) template_fault(v.undefined()->text);
    if (key.string() != nullptr) {
      if (v.mapping() != nullptr) work_.steps(v.mapping()->size() / 64);
      if (const Value* const found = v.find(*key.string())) return *found;
      return attribute(v, *key.string());
    }
    const Value missing = nothing(cat(v.kind(), " has no such item"));
    if (!key.whole() || (v.string() == nullptr && v.list() == nullptr)) return missing;
    if (v.list() != nullptr && v.list()->kind > Sequence::tuple)
      template_fault("an item by number of what is no list");
    TemplateWork& work = work_;
    const Index count = length_of(v, work), at = *key.whole() < 0 ? *key.whole() + count : *key.whole();
    if (at < 0 || at >= count) return missing;
    if (v.list() != nullptr) return v.list()->items[static_cast<std::size_t>(at)];
    return slice_text(*v.string(), at, at + 1);
  }

  // --- Expressions ---

  Value value(const Node& n) {
    if (++depth_ > most_depth) throw PlacedTemplateFault{n.at, cat("calls nested deeper than ", most_depth)};
    try {
      work_.steps(1);
      Value out = compute(n);
      --depth_;
      return out;
    } catch (const TemplateFault& fault) {
      throw PlacedTemplateFault{n.at, fault.text};
    }
  }

  std::vector<Value> values(const Node& n, std::size_t first = 0) {
    std::vector<Value> out;
    for (std::size_t i = first; i < n.parts.size(); ++i) out.push_back(value(n.parts[i]));
    return out;
  }

  Value compute(const Node& n) {
    using Kind = Node::Kind;
    switch (n.kind) {
      case Kind::constant:
        return n.value;
      case Kind::name:
        return look_up(n.name);
      case Kind::captured:
        return captured_;
      case Kind::list:
        return List{Sequence::list, values(n)};
      case Kind::tuple:
        return List{Sequence::tuple, values(n)};
      case Kind::mapping: {
        Value::Pairs pairs;
        work_.steps(n.parts.size() * n.parts.size() / 256);  // each key is compared with those before
        for (std::size_t i = 0; i < n.parts.size(); i += 2) {
          const Value key = value(n.parts[i]);
          if (key.string() == nullptr) template_fault("a mapping with a key that is ", key.kind());
          pairs.emplace_back(*key.string(), value(n.parts[i + 1]));
        }
        return pairs;
      }
      case Kind::attribute:
        return attribute(value(n.parts[0]), n.name);
      case Kind::item: {
        const Value of = value(n.parts[0]);
        return item(of, value(n.parts[1]));
      }
      case Kind::slice: {
        const std::vector<Value> all = values(n);
        return slice_of(all[0], all[1], all[2], all[3], work_);
      }
      case Kind::call:
        return call(n);
      case Kind::filter: {
        const Value of = value(n.parts[0]);
        TemplateArguments given(values(n, 1), n.names);
        return template_filter(n.name, of, given, work_);
      }
      case Kind::test: {
        const Value of = value(n.parts[0]);
        TemplateArguments given(values(n, 1), n.names);
        const bool holds = template_test(n.name, of, given, work_);
        given.all_taken(n.name);
        return holds;
      }
      case Kind::unary:
        return sign_of(n.name, value(n.parts[0]));
      case Kind::binary:
        return binary(n);
      case Kind::compare:
        return compare(n);
      case Kind::conditional:
        if (truth(value(n.parts[0]))) return value(n.parts[1]);
        return n.parts.size() > 2 ? value(n.parts[2]) : nothing("an `if` without `else` was false");
    }
    return {};
  }

  Value binary(const Node& n) {
    Value left = value(n.parts[0]);
    if (n.name == "and" || n.name == "or") return truth(left) == (n.name == "or") ? left : value(n.parts[1]);
    const Value right = value(n.parts[1]);
    if (n.name != "~") return arithmetic(n.name, left, right, work_);
    std::string both = text_of(left, work_) + text_of(right, work_);
    work_.bytes(both.size());
    return both;
  }

  Value compare(const Node& n) {
    Value left = value(n.parts[0]);
    for (std::size_t i = 0; i < n.names.size(); ++i) {
      const Value right = value(n.parts[i + 1]);
      const std::string& op = n.names[i];
      bool holds = false;
      if (op == "in" || op == "not in") {
        holds = contains(right, left, work_) == (op == "in");
      } else if (op == "==" || op == "!=") {
        holds = equal(left, right, work_) == (op == "==");
      } else {
        for (const Value* const v : {&std::as_const(left), &right}) {
          if (v->undefined() != nullptr) template_fault(v->undefined()->text);
        }
        const int order = order_of(left, right, work_);
        holds = op == "<" ? order < 0 : op == "<=" ? order <= 0 : op == ">" ? order > 0 : order >= 0;
      }
      if (!holds) return false;
      left = right;
    }
    return true;
  }

  // --- Calls ---

  Value call(const Node& n) {
    const Node& what = n.parts[0];
    Value callee;
    if (what.kind == Node::Kind::attribute) {
      const Value self = value(what.parts[0]);
      if (self.undefined() != nullptr) template_fault(self.undefined()->text);
      if (self.string() != nullptr || has_method(self, what.name)) {
        TemplateArguments given(values(n, 1), n.names);
        if (self.list() != nullptr) template_fault("the method '", what.name, "' of a list");
        Value out = self.string() != nullptr ? text_method(*self.string(), what.name, given, work_)
                                             : mapping_method(self, what.name, given, work_);
        given.all_taken(what.name);
        return out;
      }
      callee = attribute(self, what.name);
    } else {
      callee = value(what);
    }
    if (callee.undefined() != nullptr) template_fault(callee.undefined()->text);
    if (callee.function() == nullptr) template_fault("a call of ", callee.kind());
    TemplateArguments given(values(n, 1), n.names);
    if (callee.function()->macro != nullptr) return call_macro(*callee.function()->macro, given);
    Value out = call_function(callee.function()->name, given);
    given.all_taken(callee.function()->name);
    return out;
  }

  Value call_macro(const Statement& macro, TemplateArguments& given) {
    begin_scope(macro.unset[0], true);
    const std::size_t plain = macro.targets.size() - macro.expressions.size();
    for (std::size_t i = 0; i < macro.targets.size(); ++i) {
      const Value* const found = given.find(i, macro.targets[i]);
      set_name(macro.targets[i], found != nullptr ? *found
                                 : i >= plain
                                     ? value(macro.expressions[i - plain])
                                     : nothing(cat("parameter '", macro.targets[i], "' was not provided")));
    }
    given.all_taken(macro.text);
    std::string out = capture([&] { run_all(macro.bodies[0]); });
    scopes_.pop_back();
    return out;
  }

  Value call_function(std::string_view name, TemplateArguments& given) {
    if (name == "raise_exception") template_fault(text_of(given.at(0, "message"), work_));
    if (name == "strftime_now") {
      const std::string& format = given.text(0, "format");
      std::tm local{};
      std::array<char, 256> out{};
      if (format.size() > 64 || ::localtime_r(&now_, &local) == nullptr)
        template_fault("strftime_now of such a format");
      return std::string(out.data(), std::strftime(out.data(), out.size(), format.c_str(), &local));
    }
    if (name == "range") {
      const bool one = given.values().size() == 1;
      const Index from = one ? 0 : given.whole(0, "start", 0), to = given.whole(one ? 0 : 1, "stop", 0),
                  step = given.whole(2, "step", 1);
      constexpr Index far = Index{1} << 40;
      for (const Index bound : {from, to, step}) {
        if (step == 0 || bound > far || bound < -far)
          template_fault("a range to ", to, " in steps of ", step);
      }
      List all{Sequence::view};
      for (Index i = from; step > 0 ? i < to : i > to; i += step) {
        if (all.items.size() >= 100000)
          template_fault("a range of more than 100000 numbers");  // as Jinja's sandbox
        work_.steps(1);
        all.items.emplace_back(i);
      }
      return all;
    }
    Value::Pairs pairs;
    const std::size_t plain = given.values().size() - given.names().size();
    work_.steps(given.names().size() * given.names().size() / 64);
    if (plain > 0) {
      const Value& from = given.at(0, "mapping");
      if (from.mapping() == nullptr) template_fault("'", name, "' of ", from.kind());
      pairs = *from.mapping();
    }
    for (std::size_t i = 0; i < given.names().size(); ++i)
      pairs.emplace_back(given.names()[i], given.at(plain + i, given.names()[i]));
    const Value mapping(std::move(pairs));
    if (name == "dict") return mapping;
    spaces_.push_back({*mapping.mapping()});
    return &spaces_.back();
  }

  static constexpr int most_depth = 300;

  const Value::Pairs& variables_;
  const std::time_t now_;
  mutable TemplateWork work_;
  std::vector<Scope> scopes_;             // the template's outermost first
  std::deque<TemplateNamespace> spaces_;  // values point to them
  List ended_;                            // of loops that are over
  Value captured_;
  std::string out_;
  int depth_ = 0;
};

}  // namespace mtpx::detail
