#pragma once
// GGUF files as their description says, read a second time and independently: every value as a text, every
// tensor as floats.

#include <mtpx/core/error.hpp>
#include <mtpx/io/dtype.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace gguf_test {

struct Tensor {
  std::vector<std::uint64_t> extents;  // the innermost first
  std::uint32_t type = 0;
  std::vector<float> numbers;
};

struct File {
  std::map<std::string, std::string> keys;
  std::vector<std::string> order;  // of the tensors
  std::map<std::string, Tensor> tensors;
};

class Reader {
 public:
  explicit Reader(std::string bytes) : bytes_(std::move(bytes)) {}

  File read() {
    REQUIRE(bytes_.substr(0, 4) == "GGUF");
    at_ = 4;
    REQUIRE(take<std::uint32_t>() == 3);
    const auto tensors = take<std::uint64_t>(), keys = take<std::uint64_t>();
    for (std::uint64_t i = 0; i < keys; ++i) {
      const std::string key = text();
      REQUIRE(file_.keys.emplace(key, value(take<std::uint32_t>())).second);
    }
    std::map<std::string, std::uint64_t> places;
    for (std::uint64_t i = 0; i < tensors; ++i) {
      const std::string name = text();
      Tensor& tensor = file_.tensors[name];
      file_.order.push_back(name);
      tensor.extents.resize(take<std::uint32_t>());
      for (std::uint64_t& extent : tensor.extents) extent = take<std::uint64_t>();
      tensor.type = take<std::uint32_t>();
      places[name] = take<std::uint64_t>();
    }
    align();
    const std::size_t data = at_;
    for (const std::string& name : file_.order) {
      REQUIRE(at_ - data == places[name]);
      numbers(file_.tensors[name]);
      align();
    }
    REQUIRE(at_ == bytes_.size());
    return file_;
  }

 private:
  template <typename Value>
  Value take() {
    Value value;
    REQUIRE(at_ + sizeof value <= bytes_.size());
    std::memcpy(&value, bytes_.data() + at_, sizeof value);
    at_ += sizeof value;
    return value;
  }
  std::string text() {
    const auto size = static_cast<std::size_t>(take<std::uint64_t>());
    REQUIRE(size <= bytes_.size() - at_);
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  void align() {
    while (at_ % 32 != 0) REQUIRE(take<char>() == 0);
  }

  std::string value(std::uint32_t type) {
    if (type == 4) return mtpx::cat(take<std::uint32_t>());
    if (type == 5) return mtpx::cat(take<std::int32_t>());
    if (type == 6) return mtpx::cat(take<float>());
    if (type == 7) return take<std::uint8_t>() == 1 ? "true" : "false";
    if (type == 8) return text();
    REQUIRE(type == 9);
    const auto of = take<std::uint32_t>();
    std::string all;
    for (auto left = take<std::uint64_t>(); left > 0; --left) all += (all.empty() ? "" : ",") + value(of);
    return all;
  }

  void numbers(Tensor& tensor) {
    std::uint64_t count = 1;
    for (const std::uint64_t extent : tensor.extents) count *= extent;
    const auto half = [this] { return mtpx::f16_to_float(take<std::uint16_t>()); };
    while (tensor.numbers.size() < count) {
      if (tensor.type == 0) {
        tensor.numbers.push_back(take<float>());
      } else if (tensor.type == 1) {
        tensor.numbers.push_back(half());
      } else if (tensor.type == 30) {
        const std::uint32_t bits = static_cast<std::uint32_t>(take<std::uint16_t>()) << 16;
        float number;
        std::memcpy(&number, &bits, sizeof number);
        tensor.numbers.push_back(number);
      } else {
        REQUIRE(tensor.type == 8);
        const float scale = half();
        for (int i = 0; i < 32; ++i)
          tensor.numbers.push_back(scale * static_cast<float>(take<std::int8_t>()));
      }
    }
  }

  std::string bytes_;
  std::size_t at_ = 0;
  File file_;
};

inline File read(const std::string& bytes) { return Reader(bytes).read(); }

}  // namespace gguf_test
