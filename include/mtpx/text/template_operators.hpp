#pragma once
// Operators of chat templates, as Python has them; what does not fit 64 bits is a fault.

#include <mtpx/text/template_library.hpp>

#include <limits>

namespace mtpx::detail {

/// a op b of whole numbers, or a fault where it does not fit 64 bits.
inline TemplateValue whole_result(std::string_view op, std::int64_t a, std::int64_t b) {
  std::int64_t out = 0;
  bool over = false;
  if (op == "+") over = __builtin_add_overflow(a, b, &out);
  if (op == "-") over = __builtin_sub_overflow(a, b, &out);
  if (op == "*") over = __builtin_mul_overflow(a, b, &out);
  if (op == "//" || op == "%") {
    over = b == -1 && a == std::numeric_limits<std::int64_t>::min();
    const std::int64_t quotient = over ? 0 : a / b, rest = over ? 0 : a % b;
    const bool down = rest != 0 && (rest < 0) != (b < 0);  // Python rounds down, and % has the sign of b
    out = op == "//" ? quotient - (down ? 1 : 0) : rest + (down ? b : 0);
  }
  if (over) template_fault("a number of more than 63 bits");
  return out;
}

/// `a op b` but for and, or, ~.
inline TemplateValue arithmetic(std::string_view op, const TemplateValue& a, const TemplateValue& b,
                                TemplateWork& work) {
  for (const TemplateValue* const v : {&a, &b}) {
    if (v->undefined() != nullptr) template_fault(v->undefined()->text);
  }
  if (a.number() && b.number()) {
    const bool divides = op == "/" || op == "//" || op == "%";
    if (divides && b.as_double() == 0) template_fault("a division by zero");
    if (a.whole() && b.whole() && op != "/") return whole_result(op, *a.whole(), *b.whole());
    const double x = a.as_double(), y = b.as_double();
    if (op == "+") return x + y;
    if (op == "-") return x - y;
    if (op == "*") return x * y;
    if (op == "/") return x / y;
    const double rest = std::fmod(x, y), modulo = rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest;
    if (op == "%") return modulo != 0 ? modulo : std::copysign(0.0, y);
    return std::floor((x - modulo) / y + 0.5);
  }
  if (op == "+" && a.string() != nullptr && b.string() != nullptr) {
    work.bytes(a.string()->size() + b.string()->size());
    return *a.string() + *b.string();
  }
  if (op == "+" && a.list() != nullptr && b.list() != nullptr && a.list()->kind == b.list()->kind &&
      a.list()->kind <= TemplateValue::Sequence::tuple) {
    work.steps(a.list()->items.size() + b.list()->items.size());
    TemplateValue::List both = *a.list();
    both.items.insert(both.items.end(), b.list()->items.begin(), b.list()->items.end());
    return both;
  }
  if (op == "*" && a.string() != nullptr && b.whole()) {
    const auto times = static_cast<std::size_t>(std::max<std::int64_t>(0, *b.whole()));
    if (!a.string()->empty()) work.bytes(times > work.most() ? times : times * a.string()->size());
    std::string out;
    for (std::size_t i = 0; i < times && !a.string()->empty(); ++i) out += *a.string();
    return out;
  }
  if (op == "*" && b.string() != nullptr && a.whole()) return arithmetic(op, b, a, work);
  template_fault("'", op, "' of ", a.kind(), " and ", b.kind());
}

/// not, - and + of one value.
inline TemplateValue sign_of(std::string_view op, const TemplateValue& v) {
  if (op == "not") return !truth(v);
  if (v.undefined() != nullptr) template_fault(v.undefined()->text);
  if (!v.number()) template_fault("'", op, "' of ", v.kind());
  if (v.whole()) return op == "-" ? whole_result("-", 0, *v.whole()) : TemplateValue(*v.whole());
  return op == "-" ? -v.as_double() : v.as_double();
}

/// Characters [begin, end).
inline std::string slice_text(std::string_view text, Index begin, Index end) {
  std::size_t at = 0, first = 0;
  for (Index i = 0; i < end && at < text.size(); ++i) {
    if (i == begin) first = at;
    at = next_character(text, at);
  }
  return begin < end ? std::string(text.substr(first, at - first)) : "";
}

/// v[from : to : step]
inline TemplateValue slice_of(const TemplateValue& v, const TemplateValue& from, const TemplateValue& to,
                              const TemplateValue& by, TemplateWork& work) {
  if (v.undefined() != nullptr) template_fault(v.undefined()->text);
  if (v.string() == nullptr && (v.list() == nullptr || v.list()->kind > TemplateValue::Sequence::tuple))
    template_fault("a slice of ", v.kind());
  for (const TemplateValue* const bound : {&from, &to, &by}) {
    if (!bound->none() && !bound->whole()) template_fault("a slice by ", bound->kind());
  }
  const Index count = length_of(v, work), step = by.whole().value_or(1);
  if (step == 0 || std::abs(std::max<Index>(step, -count - 2)) > (Index{1} << 40))
    template_fault("a slice in steps of ", step);
  const Index low = step < 0 ? -1 : 0, high = step < 0 ? count - 1 : count;
  const auto bound = [&](const TemplateValue& b, Index otherwise) {
    if (!b.whole()) return otherwise;
    return std::clamp(*b.whole() < 0 ? std::max(*b.whole(), -count - 1) + count : *b.whole(), low, high);
  };
  const Index begin = bound(from, step < 0 ? high : low), end = bound(to, step < 0 ? low : high);
  if (v.string() != nullptr && step == 1) return slice_text(*v.string(), begin, end);
  TemplateValue::List out{v.list() != nullptr ? v.list()->kind : TemplateValue::Sequence::list};
  const TemplateValue::List all = items_of(v, work);
  const Index stride = std::clamp<Index>(step, -count - 1, count + 1);
  for (Index i = begin; stride > 0 ? i < end : i > end; i += stride)
    out.items.push_back(all.items[static_cast<std::size_t>(i)]);
  if (v.list() != nullptr) return out;
  return joined(out, "", work, [](const TemplateValue& c) { return *c.string(); });
}

}  // namespace mtpx::detail
