#pragma once
// Errors: always on, one clear first line, then every operand with its shape and, where its rows are apart,
// their distance, then the module path.

#include <mtpx/core/shape.hpp>

#include <cstddef>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>

namespace mtpx {

/// Base of everything that mtpx throws on purpose.
class Error : public std::runtime_error {
  using std::runtime_error::runtime_error;
};
/// Operands that do not fit together.
class ShapeError : public Error {
  using Error::Error;
};
/// A configuration that does not add up; the text lists every violation.
class ConfigError : public Error {
  using Error::Error;
};
/// A file that cannot be read, written or believed; the text names file, key and value.
class FileError : public Error {
  using Error::Error;
};
/// The device refused: missing, or a failed launch.
class DeviceError : public Error {
  using Error::Error;
};
/// Processes that were to work together cannot, or one of them is gone; the text names the rank.
class CommError : public Error {
  using Error::Error;
};
/// The device has no memory left; the text names the bytes asked for, free and in all.
class OutOfMemory : public DeviceError {
  using DeviceError::DeviceError;
};
/// The host has no memory left for a tensor; the text names the bytes asked for. Other memory that the host
/// does not have is a plain std::bad_alloc.
class HostMemoryError : public std::bad_alloc {
 public:
  explicit HostMemoryError(std::size_t bytes) {
    std::snprintf(text_, sizeof text_, "[cpu] out of memory: %zu bytes asked for", bytes);
  }
  const char* what() const noexcept override { return text_; }  ///< the text

 private:
  char text_[80];  // no memory is taken for it
};
/// A number that must not be: a token id outside the vocabulary, a loss that is not finite.
class NumericError : public Error {
  using Error::Error;
};

namespace detail {
/// What is printed of a value: of a NaN no sign, which compilers and processors give it as they please.
template <typename Value>
const Value& unsigned_nan(const Value& value) {
  if constexpr (std::is_floating_point_v<Value>) {
    static constexpr Value nan = std::numeric_limits<Value>::quiet_NaN();
    if (value != value) return nan;
  }
  return value;
}
}  // namespace detail

namespace detail {
/// Something to print, and how: what a text is put together from, so that it is compiled once.
struct Piece {
  template <typename Value>
  Piece(const Value& what) : value(&what), print(&print_value<Value>) {}
  Piece(std::string_view what) : text(what) {}
  Piece(const std::string& what) : text(what) {}
  Piece(const char* what) : text(what) {}

  std::string_view text;                                ///< if nothing is to be printed
  const void* value = nullptr;                          ///< what is
  void (*print)(std::ostream&, const void*) = nullptr;  ///< null: a text

 private:
  template <typename Value>
  [[gnu::cold]] static void print_value(std::ostream& out, const void* from) {
    out << unsigned_nan(*static_cast<const Value*>(from));
  }
};

[[gnu::noinline, gnu::cold]] inline std::string joined(std::initializer_list<Piece> pieces) {
  std::ostringstream stream;
  stream.exceptions(std::ios::badbit);  // a stream swallows bad_alloc, and the text would be cut short
  for (const Piece& one : pieces) {
    if (one.print != nullptr) {
      one.print(stream, one.value);
    } else {
      stream << one.text;
    }
  }
  return stream.str();
}
}  // namespace detail

/// Concatenates its arguments as `<<` would print them, but for a NaN, which has no sign. Throws
/// std::bad_alloc. Texts are for errors and names: it is compiled for its size.
template <typename... Parts>
[[gnu::cold]] std::string cat(const Parts&... parts) {
  return detail::joined({detail::Piece(parts)...});
}

/// An operand in an error text, by the name its docstring gives it: a shape, or a Tensor or Var, of which the
/// text also says whether its rows are apart, and whether there is anything at all. It refers to what it is
/// given, and looks at it when it is asked for the text.
///
///   x: [4, 2]      y: [4, 2], rows 6 apart      w: undefined
class Operand {
 public:
  template <typename X>
  Operand(const char* called, const X& x) : name(called), of_(&x), say_(&say<X>) {}

  /// What the text says behind the name.
  std::string str() const { return say_(of_); }

  const char* name;  ///< as the docstring has it

 private:
  template <typename X>
  [[gnu::cold]] static std::string say(const void* of) {
    const X& operand = *static_cast<const X*>(of);
    if constexpr (std::is_same_v<X, Shape>) {
      return text_of(true, operand, operand.width());
    } else {
      return text_of(operand.defined(), operand.shape(), operand.row_stride());
    }
  }
  [[gnu::noinline, gnu::cold]] static std::string text_of(bool defined, const Shape& shape,
                                                          Index row_stride) {
    if (!defined) return "undefined";
    const bool apart = row_stride != shape.width() && shape.rows() > 1;
    return apart ? cat(shape.str(), ", rows ", row_stride, " apart") : shape.str();
  }

  const void* of_;
  std::string (*say_)(const void* of);
};

namespace detail {
/// A text that is made when it is asked for: what it is given itself, what that returns when called, or its
/// path(). It refers to what it is given. So require() is compiled once, and not for every rule.
class Saying {
 public:
  Saying(const char* text = "") : from_(text) {}
  template <typename Text>
  requires(!std::is_convertible_v<const Text&, const char*>) Saying(const Text& text)
      : from_(&text), say_(&say<Text>) {}

  /// The text.
  std::string str() const { return say_ != nullptr ? say_(from_) : static_cast<const char*>(from_); }

 private:
  template <typename Text>
  [[gnu::cold]] static std::string say(const void* from) {
    const Text& text = *static_cast<const Text*>(from);
    if constexpr (std::is_convertible_v<const Text&, std::string_view>) {
      return std::string(std::string_view(text));
    } else if constexpr (requires { text(); }) {
      return text();
    } else {
      return text.path();
    }
  }

  const void* from_;
  std::string (*say_)(const void* from) = nullptr;  // null: from_ is the text
};

/// What require() throws. Not in line: where all is well, a check is a comparison.
[[noreturn, gnu::noinline, gnu::cold]] inline void refuse(std::string_view op, const Saying& rule,
                                                          std::initializer_list<Operand> operands,
                                                          const Saying& path) {
  std::string text = cat('[', op, "] ", rule.str());
  for (const Operand& operand : operands) text += cat("\n  ", operand.name, ": ", operand.str());
  const std::string where = path.str();
  if (!where.empty()) text += cat("\n  in ", where);
  throw ShapeError(text);
}
}  // namespace detail

/// Throws ShapeError "[op] rule", a line per operand, and "in path" unless `holds`. A rule that takes work to
/// put into words is a function that returns it; `path` is a text or has a path(), such as the tape.
inline void require(bool holds, std::string_view op, const detail::Saying& rule,
                    std::initializer_list<Operand> operands = {}, const detail::Saying& path = {}) {
  if (!holds) detail::refuse(op, rule, operands, path);
}

}  // namespace mtpx
