#include <mtpx/io/safetensors.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

using namespace mtpx;
using mtpx_test::Folder;

namespace {
const std::vector<std::byte> zeros(64);

TensorBytes zero_tensor(const std::string& name, DType dtype, const std::vector<Index>& shape) {
  return {name, dtype, shape,
          std::span(zeros).first(static_cast<std::size_t>(*detail::byte_count(dtype, shape)))};
}

/// The error of writing these tensors; nothing may be left behind.
std::string error_of(const std::vector<TensorBytes>& tensors, const FileMetadata& metadata = {}) {
  const Folder folder;
  const std::string text = folder.error([&] { write_safetensors(folder.root / "f", tensors, metadata); });
  CHECK(folder.files() == 0);
  return text;
}
}  // namespace

TEST_CASE("safetensors writer: the bytes of a small file") {
  const Folder folder;
  const std::uint8_t five = 5;
  const float one = 1;
  const std::vector<TensorBytes> tensors = {{"z", DType::u8, {}, std::as_bytes(std::span(&five, 1))},
                                            {"w", DType::f32, {1, 1}, std::as_bytes(std::span(&one, 1))}};
  write_safetensors(folder.root / "f", tensors, {{"format", "pt"}});
  const std::string before = R"({"__metadata__":{"format":"pt","mtpx_xxh64":")";
  std::string header = before + std::string(16, '0') +
                       checksum_text(checksum(std::string_view("\0\0\x80\x3f", 4))) +
                       checksum_text(checksum("\x05")) +
                       R"("},"w":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]},)"
                       R"("z":{"dtype":"U8","shape":[],"data_offsets":[4,5]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  header.replace(before.size(), 16, checksum_text(checksum(header)));
  const std::uint64_t length = header.size();
  const std::string want =
      std::string(reinterpret_cast<const char*>(&length), 8) + header + std::string("\0\0\x80\x3f\x05", 5);
  CHECK(folder.read("f") == want);
  CHECK(folder.files() == 1);

  write_safetensors(folder.root / "g", {tensors[1], tensors[0]}, {{"format", "pt"}});
  CHECK(folder.read("g") == want);  // the order of the arguments does not show
}

TEST_CASE("safetensors writer: wide elements first, then by name; an empty file is a file") {
  const Folder folder;
  std::vector<TensorInfo> infos;
  for (DType dtype : all_dtypes) {
    for (const char* name : {"b", "a"}) infos.push_back({std::string(dtype_name(dtype)) + name, dtype, {2}});
  }
  SafeTensorsWriter writer(folder.root / "f", infos);
  std::string order;
  for (const TensorInfo& tensor : writer.tensors()) order += tensor.name + " ";
  CHECK(order ==
        "F64a F64b I64a I64b F32a F32b I32a I32b BF16a BF16b F16a F16b F8_E4M3a F8_E4M3b I8a I8b U8a U8b ");
  write_safetensors(folder.root / "g", {});
  CHECK(folder.read("g") == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  CHECK(SafeTensors::open(folder.root / "g").tensors().empty());
}

TEST_CASE("safetensors writer: what is read and written again is the same file, for every dtype") {
  const Folder folder;
  std::vector<std::byte> bytes(256);
  for (std::size_t i = 0; i < 256; ++i) bytes[i] = static_cast<std::byte>(i);
  std::vector<TensorBytes> tensors;
  for (DType dtype : all_dtypes) {
    tensors.push_back({cat("layer.", dtype_name(dtype)), dtype, {256 / dtype_size(dtype), 1}, bytes});
  }
  tensors.push_back({"M\xc3\xbcller \"quoted\" \n", DType::f32, {0, 7}, {}});
  const FileMetadata metadata = {{"format", "pt"}, {"a \"b\"", "\xe2\x82\xac"}};
  write_safetensors(folder.root / "f", tensors, metadata);

  const SafeTensors file = SafeTensors::open(folder.root / "f");
  CHECK(file.metadata() == metadata);
  std::vector<TensorBytes> again;
  for (const SafeTensorsEntry& entry : file.tensors()) {
    again.push_back({entry.name, *entry.dtype, entry.shape, file.bytes(entry)});
  }
  write_safetensors(folder.root / "g", again, file.metadata());
  CHECK(folder.read("g") == folder.read("f"));

  // Onto the very file that is mapped: the mapping keeps the old bytes, the name gets the new ones.
  again.pop_back();
  write_safetensors(folder.root / "f", again, file.metadata());
  CHECK(file.bytes(file.at("layer.U8"))[255] == std::byte{255});
  CHECK(SafeTensors::open(folder.root / "f").tensors().size() == file.tensors().size() - 1);
}

TEST_CASE("safetensors writer: what cannot be written is refused before a file exists") {
  const auto tensor = [](const std::string& name) { return zero_tensor(name, DType::u8, {1}); };
  CHECK(error_of({tensor("a"), tensor("b"), tensor("a")}) == "[safetensors] f: tensor \"a\" stands twice");
  CHECK(error_of({zero_tensor("a", DType::f32, {1}), tensor("a")}) ==
        "[safetensors] f: tensor \"a\" stands twice");
  CHECK(error_of({tensor("__metadata__")}) == "[safetensors] f: no tensor may be called \"__metadata__\"");
  CHECK(error_of({tensor("\xff")}) == "[safetensors] f: the name or text \"\xef\xbf\xbd\" is not UTF-8");
  CHECK(error_of({tensor("a")}, {{"k", "\xc3"}}) ==
        "[safetensors] f: the name or text \"\xef\xbf\xbd\" is not UTF-8");
  CHECK(error_of({{"a", DType::u8, {-1}, {}}}) ==
        "[safetensors] f: tensor \"a\": shape [-1] cannot be written");
  const Index huge = std::numeric_limits<Index>::max();
  CHECK(error_of({{"a", DType::f32, {huge}, {}}}) ==
        "[safetensors] f: tensor \"a\": shape [9223372036854775807] cannot be written");
  CHECK(error_of({{"a", DType::u8, {huge}, {}}, {"b", DType::u8, {1}, {}}}) ==  // the sum of both overflows
        "[safetensors] f: tensor \"b\": shape [1] cannot be written");
  CHECK(error_of({{"a", DType::u8, std::vector<Index>(65, 1), {}}}) ==
        "[safetensors] f: tensor \"a\": shape [1, 1, 1, 1, 1, 1, 1, 1, ...] cannot be written");
}

TEST_CASE("safetensors writer: each tensor in turn, each with its bytes, all of them") {
  const Folder folder;
  SafeTensorsWriter writer(folder.root / "f", {{"a", DType::f32, {2, 2}}, {"b", DType::u8, {1}}});
  CHECK(folder.error([&] { writer.write(std::span(zeros).first(12)); }) ==
        "[safetensors] f: tensor \"a\": shape [2, 2] of F32 takes 16 bytes; 12 were given");
  writer.write(std::span(zeros).first(16));
  CHECK(folder.error([&] { writer.finish(); }) == "[safetensors] f: only 1 of 2 tensors were written");
  CHECK(!std::filesystem::exists(folder.root / "f"));
  writer.write(std::span(zeros).first(1));
  CHECK(folder.error([&] { writer.write({}); }) == "[safetensors] f: all 2 tensors have been written");
  writer.finish();
  CHECK(SafeTensors::open(folder.root / "f").tensors().size() == 2);
  CHECK(folder.files() == 1);
}

TEST_CASE("safetensors writer: the operating system's refusal names the path") {
  const Folder folder;
  CHECK(folder.error([&] { write_safetensors(folder.root / "none" / "f", {}); }) ==
        "[safetensors] none/f: cannot be created: No such file or directory");
}
