#pragma once
// JSON of a file whose shape nobody has checked: every access is, and says what is wrong where.

#include <mtpx/io/json.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace program {

/// A value and the way to it. What is asked of it and does not hold throws FileError "place: key = value:
/// rule", where place is "[subcommand] file" and key such as tables[0].name. It points into the JSON that it
/// was made of.
class Checked {
 public:
  Checked(const mtpx::Json& value, std::string place) : value_(&value), place_(std::move(place)) {}

  /// A member; with has(), one that may be absent.
  Checked operator[](std::string_view key) const {
    object();
    const auto found = value_->find(std::string(key));
    if (found == value_->end()) throw mtpx::FileError(mtpx::cat(place_, ": ", way(key), " is missing"));
    return {*found, place_, way(key)};
  }
  bool has(std::string_view key) const { return object().contains(std::string(key)); }

  /// An entry of a list.
  Checked operator[](std::size_t i) const {
    if (i >= size()) throw mtpx::FileError(mtpx::cat(place_, ": ", way(i), " is missing"));
    return {(*value_)[i], place_, way(i)};
  }
  std::size_t size() const {
    if (!value_->is_array()) refuse("must be a list");
    return value_->size();
  }
  Checked back() const {
    if (size() == 0) refuse("must not be empty");
    return (*this)[size() - 1];
  }
  std::vector<Checked> entries() const {
    std::vector<Checked> all;
    for (std::size_t i = 0; i < size(); ++i) all.push_back((*this)[i]);
    return all;
  }

  /// A number that sums and squares of many such hold.
  double number() const {
    if (!value_->is_number() || !std::isfinite(value_->get<double>())) refuse("must be a number");
    if (std::abs(value_->get<double>()) > 1e100) refuse("must be at most 1e100");
    return value_->get<double>();
  }
  /// null, as which JSON has it, is a number that is not finite.
  double number_or_nan() const { return value_->is_null() ? std::nan("") : number(); }
  std::vector<double> numbers_or_nan() const {
    std::vector<double> all;
    for (const Checked& one : entries()) all.push_back(one.number_or_nan());
    return all;
  }
  std::uint64_t whole(std::uint64_t most) const {
    // What a program made has signed numbers.
    const bool natural =
        value_->is_number_unsigned() || (value_->is_number_integer() && value_->get<std::int64_t>() >= 0);
    if (!natural || value_->get<std::uint64_t>() > most)
      refuse(mtpx::cat("must be a whole number from 0 to ", most));
    return value_->get<std::uint64_t>();
  }
  const std::string& text() const {
    if (!value_->is_string()) refuse("must be a text");
    return value_->get_ref<const std::string&>();
  }
  const mtpx::Json& object() const {
    if (!value_->is_object()) refuse("must be an object");
    return *value_;
  }
  /// Whatever it is, on one line.
  std::string dump() const { return value_->dump(); }

  [[noreturn]] void refuse(const std::string& rule) const {
    throw mtpx::FileError(mtpx::cat(place_, ": ", key_.empty() ? "" : key_ + " = ",
                                    mtpx::detail::json_text(*value_), ": ", rule));
  }

 private:
  Checked(const mtpx::Json& value, const std::string& place, std::string key)
      : value_(&value), place_(place), key_(std::move(key)) {}

  std::string way(std::string_view key) const {
    return key_.empty() ? std::string(key) : mtpx::cat(key_, '.', key);
  }
  std::string way(std::size_t i) const { return mtpx::cat(key_, '[', i, ']'); }

  const mtpx::Json* value_;
  std::string place_, key_;
};

}  // namespace program
