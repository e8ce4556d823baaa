#include <mtpx/io/safetensors.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

using namespace mtpx;
using mtpx_test::Folder;
namespace fs = std::filesystem;

namespace {

std::string length_bytes(std::uint64_t length) {
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes;
}

/// A file with this header and so many bytes of data: 0, 1, 2, ...
std::string file_bytes(const std::string& header, std::size_t data = 0) {
  std::string bytes = length_bytes(header.size()) + header;
  for (std::size_t i = 0; i < data; ++i) bytes += static_cast<char>(i);
  return bytes;
}

/// The error of opening a file with these bytes, without "[safetensors] f: "; "" if it opens.
std::string error_of(const std::string& bytes) {
  const Folder folder;
  const fs::path path = folder.write("f", bytes);
  std::string text = folder.error([&] { SafeTensors::open(path); });
  const std::string head = "[safetensors] f: ";
  if (text.rfind(head, 0) == 0) text.erase(0, head.size());
  return text;
}

std::string error_of(const std::string& header, std::size_t data) {
  return error_of(file_bytes(header, data));
}

const std::string good = R"({"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                         R"("a":{"dtype":"U8","shape":[],"data_offsets":[8,9]}})";

}  // namespace

TEST_CASE("safetensors: a good file, mapped and read") {
  const Folder folder;
  const fs::path path = folder.write("f", file_bytes(good, 9));
  for (bool mmap : {true, false}) {
    CAPTURE(mmap);
    const SafeTensors file = SafeTensors::open(path, {.mmap = mmap});
    REQUIRE(file.tensors().size() == 2);
    CHECK(file.tensors()[0].name == "a");
    CHECK(file.tensors()[0].shape.empty());
    CHECK(file.tensors()[0].count() == 1);
    const SafeTensorsEntry* b = file.find("b");
    REQUIRE(b != nullptr);
    CHECK(b->dtype == DType::f32);
    CHECK(b->shape == std::vector<Index>{2});
    CHECK(b->bytes() == 8);
    CHECK(file.find("c") == nullptr);
    CHECK(folder.error([&] { file.at("c"); }) == "[safetensors] f: has no tensor \"c\"");
    CHECK(file.read<std::int64_t>(file.at("a")) == std::vector<std::int64_t>{8});
    std::vector<std::byte> bytes(3);
    file.read_bytes(*b, 5, bytes);
    CHECK(bytes == std::vector<std::byte>{std::byte{5}, std::byte{6}, std::byte{7}});
    std::vector<float> floats(2);
    file.read(*b, std::span(floats));
    CHECK(floats[1] == std::bit_cast<float>(0x07060504U));

    CHECK(folder.error([&] { file.read_bytes(*b, 6, bytes); }) ==
          "[safetensors] f: tensor \"b\": 3 bytes from byte 6 on were asked for; it has 8");
    CHECK(folder.error([&] { file.read_bytes(*b, -1, bytes); }) ==
          "[safetensors] f: tensor \"b\": 3 bytes from byte -1 on were asked for; it has 8");
    CHECK(folder.error([&] { file.read(*b, std::span(floats).first(1)); }) ==
          "[safetensors] f: tensor \"b\": has 2 elements; there is room for 1");
    CHECK(folder.error([&] { file.read<std::int64_t>(*b); }) ==
          "[safetensors] f: tensor \"b\": holds F32, where whole numbers were asked for");
    SafeTensorsEntry foreign = *b;
    foreign.end = 1 << 20;
    CHECK(folder.error([&] { file.read_bytes(foreign, 0, bytes); }) ==
          "[safetensors] f: tensor \"b\": belongs to another file");
  }
  const SafeTensors mapped = SafeTensors::open(path);
  CHECK(mapped.bytes(mapped.at("a"))[0] == std::byte{8});
  const SafeTensors plain = SafeTensors::open(path, {.mmap = false});
  CHECK(folder.error([&] { plain.bytes(plain.at("a")); }) ==
        "[safetensors] f: is not mapped: use read_bytes");
}

TEST_CASE("safetensors S1 S2: lengths that the file does not have") {
  CHECK(error_of("") == "has 0 bytes; the length of the header takes 8");
  CHECK(error_of("1234567") == "has 7 bytes; the length of the header takes 8");
  CHECK(error_of(length_bytes(0)) == "the header does not begin with {");
  CHECK(error_of(length_bytes(~std::uint64_t{0}) + "{}") ==
        "claims a header of 18446744073709551615 bytes; at most 100000000 are read");
  CHECK(error_of(length_bytes(~std::uint64_t{0} - 7) + "{}") ==  // plus 8 would wrap to zero
        "claims a header of 18446744073709551608 bytes; at most 100000000 are read");
  CHECK(error_of(length_bytes(100'000'001) + "{}") ==
        "claims a header of 100000001 bytes; at most 100000000 are read");
  CHECK(error_of(length_bytes(100'000'000) + "{}") == "claims a header of 100000000 bytes; only 2 are there");
  CHECK(error_of(length_bytes(3) + "{}") == "claims a header of 3 bytes; only 2 are there");
}

TEST_CASE("safetensors S3 S4: a header that is not UTF-8 or not an object of JSON") {
  CHECK(error_of("{\"\xff\":1}", 0) == "the header is not UTF-8 at byte 2");
  CHECK(error_of(" {}", 0) == "the header does not begin with {");
  CHECK(error_of("[]", 0) == "the header does not begin with {");
  CHECK(error_of("{} x", 0) == "the header is not JSON at byte 4");
  CHECK(error_of("{", 0) == "the header is not JSON at byte 2");
  CHECK(error_of("{\"a\":{\"dtype\":}}", 0) == "the header is not JSON at byte 15");
  CHECK(error_of(std::string("{}\0", 3), 0) == "the header is not JSON at byte 3");
  CHECK(error_of(R"({"a":{"dtype":"U8","shape":[1e999],"data_offsets":[0,0]}})", 0) ==
        "the header is not JSON at byte 33");
  CHECK(error_of("{}   \n ", 0) == "");  // writers pad
}

TEST_CASE("safetensors S5: nothing stands twice") {
  const std::string a = R"("a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  CHECK(error_of("{" + a + "," + a + "}", 1) == "tensor \"a\" stands twice");
  CHECK(error_of(R"({"__metadata__":{},"__metadata__":{}})", 0) == "the key \"__metadata__\" stands twice");
  CHECK(error_of(R"({"__metadata__":{"k":"1","k":"2"}})", 0) == "the key \"k\" of __metadata__ stands twice");
  CHECK(error_of(R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1) ==
        "tensor \"a\": the field \"dtype\" stands twice");
}

TEST_CASE("safetensors S6: a million brackets do not exhaust the stack") {
  const std::string deep(1000000, '[');
  CHECK(error_of("{\"a\":" + deep, 0) == "\"a\" must be an object, not an array");
  CHECK(error_of("{\"a\":{\"shape\":" + deep, 0) ==
        "tensor \"a\": shape must be an array of at most 64 whole numbers from 0 to 2^53, not an array");
  CHECK(error_of("{\"__metadata__\":{\"k\":" + deep, 0) ==
        "the key \"k\" of __metadata__ must be a string, not an array");
}

TEST_CASE("safetensors S7: an unknown dtype is named, the other tensors stay readable") {
  const Folder folder;
  const fs::path path =
      folder.write("f", file_bytes(R"({"x":{"dtype":"F8_E8M0","shape":[3],"data_offsets":[0,3]},)"
                                   R"("y":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                                   4));
  const SafeTensors file = SafeTensors::open(path);
  CHECK(file.read<std::int64_t>(file.at("y"))[0] == 3);
  CHECK(file.at("x").dtype_name == "F8_E8M0");
  CHECK(!file.at("x").dtype);
  CHECK(file.bytes(file.at("x")).size() == 3);
  CHECK(folder.error([&] { file.read<float>(file.at("x")); }) ==
        "[safetensors] f: tensor \"x\": dtype \"F8_E8M0\" is not one of F64 F32 F16 BF16 F8_E4M3 I64 I32 I8 "
        "U8");
  // Its place is checked like any other's.
  CHECK(error_of(R"({"x":{"dtype":"FOO","shape":[3],"data_offsets":[0,5]}})", 4) ==
        "tensor \"x\": data_offsets [0, 5] leave the file, which has 4 bytes of data");
}

TEST_CASE("safetensors S8: counts that are no counts, fields of the wrong kind") {
  const auto with_shape = [](const std::string& shape) {
    return error_of(R"({"a":{"dtype":"U8","shape":)" + shape + R"(,"data_offsets":[0,0]}})", 0);
  };
  const std::string shape = "tensor \"a\": shape must be an array of at most 64 whole numbers from 0 to 2^53";
  CHECK(with_shape("[-1]") == shape + ", not -1");
  CHECK(with_shape("[1.5]") == shape + ", not 1.5");
  CHECK(with_shape("[1e2]") == shape + ", not 1e2");
  CHECK(with_shape("[9007199254740993]") == shape + ", not 9007199254740993");
  CHECK(with_shape("[18446744073709551616]") == shape + ", not 18446744073709551616");
  CHECK(with_shape("[\"1\"]") == shape + ", not \"1\"");
  CHECK(with_shape("[null]") == shape + ", not null");
  CHECK(with_shape("[true]") == shape + ", not true");
  CHECK(with_shape("3") == shape + ", not 3");
  CHECK(with_shape("{}") == shape + ", not an object");
  std::string many = "[0";
  for (int axis = 1; axis < 65; ++axis) many += ",0";
  CHECK(with_shape(many + "]") == shape);

  const auto with_offsets = [](const std::string& offsets) {
    return error_of(R"({"a":{"dtype":"U8","shape":[0],"data_offsets":)" + offsets + "}}", 0);
  };
  const std::string offsets =
      "tensor \"a\": data_offsets must be an array of two whole numbers from 0 to 2^53";
  CHECK(with_offsets("[0,-1]") == offsets + ", not -1");
  CHECK(with_offsets("[0,0.5]") == offsets + ", not 0.5");
  CHECK(with_offsets("[0,9223372036854775808]") == offsets + ", not 9223372036854775808");
  CHECK(with_offsets("[0]") == offsets);
  CHECK(with_offsets("[0,0,0]") == offsets);
  CHECK(with_offsets("\"0,0\"") == offsets + ", not \"0,0\"");

  CHECK(error_of(R"({"a":{"dtype":3,"shape":[],"data_offsets":[0,1]}})", 1) ==
        "tensor \"a\": dtype must be a string, not 3");
  CHECK(error_of(R"({"a":{"shape":[],"data_offsets":[0,1]}})", 1) ==
        "tensor \"a\": the field \"dtype\" is missing");
  CHECK(error_of(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1) ==
        "tensor \"a\": the field \"shape\" is missing");
  CHECK(error_of(R"({"a":{"dtype":"U8","shape":[]}})", 1) ==
        "tensor \"a\": the field \"data_offsets\" is missing");
  CHECK(error_of(R"({"a":{"dtype":"U8","strides":[]}})", 1) ==
        "tensor \"a\": the field \"strides\" is unknown");
  CHECK(error_of(R"({"a":"U8"})", 0) == "\"a\" must be an object, not \"U8\"");
}

TEST_CASE("safetensors S9: products that wrap") {
  const auto with_shape = [](const std::string& shape) {
    return error_of(R"({"a":{"dtype":"F32","shape":)" + shape + R"(,"data_offsets":[0,16]}})", 16);
  };
  CHECK(with_shape("[4194305,4194305,211106198978564]") ==  // 4 modulo 2^64
        "tensor \"a\": shape [4194305, 4194305, 211106198978564] is larger than 64 bits can count");
  CHECK(with_shape("[4294967296,4294967296]") ==  // 0 modulo 2^64
        "tensor \"a\": shape [4294967296, 4294967296] is larger than 64 bits can count");
  CHECK(with_shape("[4611686018427387904]") ==  // beyond what JSON readers hold exactly
        "tensor \"a\": shape must be an array of at most 64 whole numbers from 0 to 2^53, not "
        "4611686018427387904");
  CHECK(with_shape("[2147483648,1073741824]") ==  // the elements fit, their bytes do not
        "tensor \"a\": shape [2147483648, 1073741824] is larger than 64 bits can count");
  CHECK(with_shape("[4294967296,4294967296,0]") ==
        "tensor \"a\": shape [4294967296, 4294967296, 0] is larger than 64 bits can count");
  CHECK(error_of(R"({"a":{"dtype":"FOO","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0) ==
        "tensor \"a\": shape [4294967296, 4294967296] is larger than 64 bits can count");
}

TEST_CASE("safetensors S10: tensors tile the data without holes or overlap") {
  const auto two = [](const std::string& a, const std::string& b, std::size_t data) {
    return error_of(R"({"a":{"dtype":"FOO","shape":[],"data_offsets":)" + a +
                        R"(},"b":{"dtype":"FOO","shape":[],"data_offsets":)" + b + "}}",
                    data);
  };
  CHECK(two("[0,4]", "[4,8]", 8) == "");
  CHECK(two("[4,8]", "[0,4]", 8) == "");
  CHECK(two("[4,0]", "[4,8]", 8) == "tensor \"a\": data_offsets [4, 0] run backwards");
  CHECK(two("[0,4]", "[4,9]", 8) ==
        "tensor \"b\": data_offsets [4, 9] leave the file, which has 8 bytes of data");
  CHECK(two("[0,5]", "[4,8]", 8) ==
        "tensor \"b\": begins at data byte 4, inside the tensor before it, which ends at 5");
  CHECK(two("[0,8]", "[0,8]", 8) ==
        "tensor \"b\": begins at data byte 0, inside the tensor before it, which ends at 8");
  CHECK(two("[0,4]", "[5,8]", 8) ==
        "tensor \"b\": begins at data byte 5; the bytes from 4 on belong to no tensor");
  CHECK(two("[1,4]", "[4,8]", 8) ==
        "tensor \"a\": begins at data byte 1; the bytes from 0 on belong to no tensor");
  CHECK(two("[0,4]", "[4,8]", 9) == "has 9 bytes of data; the tensors take 8");
  // An empty tensor may stand where others meet, but not inside one.
  CHECK(two("[0,8]", "[8,8]", 8) == "");
  CHECK(two("[0,8]", "[0,0]", 8) == "");
  CHECK(two("[0,8]", "[4,4]", 8) ==
        "tensor \"b\": begins at data byte 4, inside the tensor before it, which ends at 8");
}

TEST_CASE("safetensors S11: shape and offsets disagree") {
  CHECK(error_of(R"({"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20) ==
        "tensor \"a\": shape [2, 3] of F32 takes 24 bytes; data_offsets [0, 20] hold 20");
  CHECK(error_of(R"({"a":{"dtype":"F64","shape":[],"data_offsets":[0,4]}})", 4) ==
        "tensor \"a\": shape [] of F64 takes 8 bytes; data_offsets [0, 4] hold 4");
  CHECK(error_of(R"({"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,1]}})", 1) ==
        "tensor \"a\": shape [1, 1, 1, 1, 1, 1, 1, 1, ...] of U8 takes 2 bytes; data_offsets [0, 1] hold 1");
}

TEST_CASE("safetensors S12: empty tensors, no tensors, metadata") {
  const Folder folder;
  CHECK(SafeTensors::open(folder.write("f", file_bytes("{}"))).tensors().empty());
  const SafeTensors file = SafeTensors::open(
      folder.write("g", file_bytes(R"({"__metadata__":{"format":"pt","empty":""},)"
                                   R"("e":{"dtype":"F32","shape":[3,0],"data_offsets":[0,0]}})")));
  CHECK(file.metadata() == FileMetadata{{"empty", ""}, {"format", "pt"}});
  CHECK(file.at("e").count() == 0);
  CHECK(file.bytes(file.at("e")).empty());
  CHECK(file.read<float>(file.at("e")).empty());
  CHECK(error_of(R"({"__metadata__":{"k":1}})", 0) ==
        "the key \"k\" of __metadata__ must be a string, not 1");
  CHECK(error_of(R"({"__metadata__":{"k":{}}})", 0) ==
        "the key \"k\" of __metadata__ must be a string, not an object");
  CHECK(error_of(R"({"__metadata__":"k"})", 0) == "\"__metadata__\" must be an object, not \"k\"");
  CHECK(error_of("{}", 1) == "has 1 bytes of data; the tensors take 0");
}

TEST_CASE("safetensors S13: a name is only a key") {
  const Folder folder;
  const std::string fields = R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  const std::string big(10000, 'n');
  const SafeTensors file = SafeTensors::open(
      folder.write("f", file_bytes(R"({"a\u0000b)" + fields + R"(,"../../x)" + fields + R"(,"new\nline)" +
                                   fields + ",\"" + big + fields + ",\"" + fields + "}")));
  CHECK(file.tensors().size() == 5);
  CHECK(file.find(std::string_view("a\0b", 3)) != nullptr);
  CHECK(file.find("../../x") != nullptr);
  CHECK(file.find(big) != nullptr);
  CHECK(file.find("") != nullptr);
  CHECK(folder.error([&] { file.at("no\nne"); }) == "[safetensors] f: has no tensor \"no\\nne\"");
}

TEST_CASE("safetensors S14: a hundred thousand tensors open at once, and there is an end") {
  const auto with_tensors = [](int count) {
    std::string header = "{";
    for (int i = 0; i < count; ++i) {
      header += "\"" + std::to_string(i) + R"(":{"dtype":"U8","shape":[],"data_offsets":[)" +
                std::to_string(i) + "," + std::to_string(i + 1) + "]},";
    }
    header.back() = '}';
    return error_of(header, static_cast<std::size_t>(count));
  };
  const auto start = std::chrono::steady_clock::now();
  CHECK(with_tensors(100000) == "");
  CHECK(std::chrono::steady_clock::now() - start <
        std::chrono::seconds(10));  // with sanitizers; 0.1 s without
  CHECK(with_tensors((1 << 18) + 1) == "the header lists more than 262144 tensors");
}

TEST_CASE("safetensors S15: a file that shrinks while it is open") {
  const Folder folder;
  const fs::path path = folder.write("f", file_bytes(good, 9));
  const std::string size = std::to_string(fs::file_size(path));
  const std::string less = std::to_string(fs::file_size(path) - 4);
  const SafeTensors mapped = SafeTensors::open(path);
  const SafeTensors plain = SafeTensors::open(path, {.mmap = false});
  fs::resize_file(path, fs::file_size(path) - 4);
  CHECK(folder.error([&] { mapped.read<float>(mapped.at("b")); }) ==
        "[safetensors] f: has shrunk from " + size + " to " + less + " bytes while it was in use");
  CHECK(folder.error([&] { plain.read<float>(plain.at("b")); }) ==
        "[safetensors] f: ends at byte " + less + "; 3 more bytes were expected");
}

TEST_CASE("safetensors S16: only regular files") {
  const Folder folder;
  CHECK(folder.error([&] { SafeTensors::open("/dev/zero"); }) ==
        "[safetensors] /dev/zero: is not a regular file");
  CHECK(folder.error([&] { SafeTensors::open(folder.root / "none"); }) ==
        "[safetensors] none: cannot be opened: No such file or directory");
}

TEST_CASE("safetensors: large tensors are read in pieces, the same either way") {
  const Folder folder;
  std::vector<float> numbers(700001);  // more than two pieces of 2^20 bytes
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<float>(i) * 0.25F;
  write_safetensors(folder.root / "f", {{"x", DType::f32, {700001}, std::as_bytes(std::span(numbers))}});
  for (bool mmap : {true, false}) {
    const SafeTensors file = SafeTensors::open(folder.root / "f", {.mmap = mmap});
    CHECK(file.read<float>(file.at("x")) == numbers);
    const std::vector<double> wide = file.read<double>(file.at("x"));
    CHECK(wide.back() == 175000);
  }
}

TEST_CASE("safetensors: whatever byte is damaged, a file opens soundly or fails by name") {
  const Folder folder;
  const std::string whole = file_bytes(R"({"__metadata__":{"f":"pt"},)" + good.substr(1), 9);
  std::mt19937 random(1);
  int opened = 0;
  for (int trial = 0; trial < 4000; ++trial) {
    std::string bytes = whole;
    for (unsigned edit = 0; edit <= random() % 3; ++edit) {
      const std::size_t at = random() % bytes.size();
      if (random() % 4 == 0)
        bytes.erase(at, 1 + random() % 4);
      else if (random() % 2 == 0)
        bytes[at] = static_cast<char>(random());
      else
        bytes[at] = "0123456789[]{},\":"[random() % 17];
      if (bytes.empty()) bytes = "x";
    }
    const fs::path path = folder.write("f", bytes);
    try {
      const SafeTensors file = SafeTensors::open(path, {.mmap = trial % 2 == 0});
      for (const SafeTensorsEntry& entry : file.tensors()) {
        if (entry.dtype) file.read<float>(entry);
      }
      ++opened;
    } catch (const FileError& error) {
      REQUIRE(std::string(error.what()).rfind("[safetensors] ", 0) == 0);
    }
  }
  CHECK(opened > 100);  // the damage is not always fatal
  CHECK(opened < 3000);
}
