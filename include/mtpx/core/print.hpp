#pragma once
// Tensors in a stream: what a person wants to see, however large they are.

#include <mtpx/core/tensor.hpp>

#include <algorithm>
#include <cstdint>
#include <ostream>
#include <sstream>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace mtpx {

namespace detail {

template <typename T>
constexpr std::string_view type_name() {
  if constexpr (std::is_same_v<T, float>) return "float";
  if constexpr (std::is_same_v<T, double>) return "double";
  if constexpr (std::is_same_v<T, bf16>) return "bf16";
  if constexpr (std::is_same_v<T, std::int32_t>) return "int32";
  if constexpr (std::is_same_v<T, std::int64_t>) return "int64";
  return "numbers";
}

/// Which of `extent` entries are shown: all, or the first three and the last three.
struct Shown {
  explicit Shown(Index extent)
      : head(extent > 8 ? 3 : extent), tail(extent > 8 ? 3 : 0), tail_begin(extent - tail) {}
  Index head, tail, tail_begin;
};

/// Row `row` as texts, "..." for what is left out. Of a device's memory, only what is shown is fetched.
template <typename T, typename D>
std::vector<std::string> texts_of_row(const std::ostream& style, const Tensor<T, D>& x, Index row) {
  std::vector<std::string> texts;
  const Shown shown(x.shape().width());
  const auto add = [&](Index begin, Index count) {
    std::vector<T> numbers(static_cast<std::size_t>(count));
    copy_to_host(x.device(), numbers.data(), x.data() + row * x.row_stride() + begin,
                 numbers.size() * sizeof(T));
    for (const T number : numbers) {
      std::ostringstream text;
      text.copyfmt(style);
      text.width(0);
      if constexpr (std::is_integral_v<T>) {
        text << +number;
      } else {
        text << unsigned_nan(static_cast<acc_t<T>>(number));
      }
      texts.push_back(text.str());
    }
  };
  add(0, shown.head);
  if (shown.tail > 0) {
    texts.push_back("...");
    add(shown.tail_begin, shown.tail);
  }
  return texts;
}

/// How many brackets begin at a row, the row's own included: one more for each axis whose entries begin
/// there.
inline Index brackets_at(const Shape& shape, Index row) {
  Index count = std::min(1, shape.rank()), rows = 1;
  for (int axis = shape.rank() - 2; axis >= 0; --axis) {
    rows *= shape[axis];
    if (row % rows == 0) ++count;
  }
  return count;
}

}  // namespace detail

/// Prints type and shape, then the numbers in the stream's own format. Of more than eight rows or columns the
/// first and the last three, as NumPy summarises; so at most 64 numbers are fetched from a device. All axes
/// but the last count as rows.
///
///   float [2, 2, 3]
///   [[[ 1,  2,  3],
///     [ 4,  5,  6]],
///    [[ 7,  8,  9],
///     [10, 11, 12]]]
template <typename T, typename D>
requires(std::is_arithmetic_v<T> || std::is_same_v<T, bf16>) std::ostream& operator<<(std::ostream& out,
                                                                                      const Tensor<T, D>& x) {
  out << detail::type_name<T>() << ' ' << Operand("", x).str();
  if constexpr (NoMemory<D>) {
    return out << (x.defined() ? ", without memory" : "");
  } else {
    if (!x.defined() || x.size() == 0) return out;
    const Index rows = x.shape().rows();
    const detail::Shown shown(rows);
    std::vector<std::vector<std::string>> lines;
    for (Index row = 0; row < shown.head; ++row) lines.push_back(detail::texts_of_row(out, x, row));
    for (Index row = shown.tail_begin; row < rows; ++row) lines.push_back(detail::texts_of_row(out, x, row));
    std::size_t width = 0;
    for (const auto& line : lines) {
      for (const std::string& text : line)
        if (text != "...") width = std::max(width, text.size());
    }
    const auto times = [](Index count, char c) { return std::string(static_cast<std::size_t>(count), c); };
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const auto place = static_cast<Index>(i);
      const Index row = place < shown.head ? place : shown.tail_begin + place - shown.head;
      if (shown.tail > 0 && place == shown.head) out << '\n' << times(x.shape().rank() - 1, ' ') << "...,";
      const Index opens = detail::brackets_at(x.shape(), row);
      out << '\n' << times(x.shape().rank() - opens, ' ') << times(opens, '[');
      for (std::size_t c = 0; c < lines[i].size(); ++c) {
        const std::string& text = lines[i][c];
        out << (c > 0 ? ", " : "") << (text == "..." ? "" : std::string(width - text.size(), ' ')) << text;
      }
      out << times(detail::brackets_at(x.shape(), row + 1), ']') << (row + 1 < rows ? "," : "");
    }
    return out;
  }
}

}  // namespace mtpx
