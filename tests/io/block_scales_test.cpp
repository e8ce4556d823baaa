#include <mtpx/io/block_scales.hpp>

#include "io/support.hpp"

#include <bit>
#include <cmath>
#include <cstring>

using namespace mtpx;
using mtpx_test::Folder;

TEST_SUITE_BEGIN("mtpx/io/block_scales.hpp");

namespace {

template <typename Number>
std::vector<Number> dequantized(const std::vector<std::uint8_t>& codes, Index rows, Index columns,
                                const std::vector<float>& scales, BlockSize block = {}) {
  const Folder folder;
  const std::vector<TensorBytes> tensors = {
      {"w", DType::f8_e4m3, {rows, columns}, std::as_bytes(std::span(codes))}};
  write_safetensors(folder.root / "f", tensors);
  const SafeTensors file = SafeTensors::open(folder.root / "f");
  std::vector<Number> out(codes.size());
  dequantize<Number>(file, file.at("w"), scales, block, 0, out);
  // In parts that begin and end anywhere: the same.
  std::vector<Number> pieces(codes.size());
  for (std::size_t first = 0, size = 1; first < pieces.size(); first += size, size = 2 * size + 1) {
    size = std::min(size, pieces.size() - first);
    dequantize<Number>(file, file.at("w"), scales, block, static_cast<Index>(first),
                       std::span(pieces).subspan(first, size));
  }
  CHECK(std::memcmp(pieces.data(), out.data(), out.size() * sizeof(Number)) == 0);
  return out;
}

}  // namespace

TEST_CASE("block scales: as many as blocks, partial ones included") {
  CHECK(scales_shape({}, {7168, 16384}) == std::vector<Index>{56, 128});
  CHECK(scales_shape({}, {576, 7168}) == std::vector<Index>{5, 56});  // kv_a_proj_with_mqa: 4.5 blocks
  CHECK(scales_shape({}, {1, 129}) == std::vector<Index>{1, 2});
  CHECK(scales_shape({2, 3}, {4, 4}) == std::vector<Index>{2, 2});
  CHECK(scale_name("a.weight") == "a.weight_scale_inv");
}

TEST_CASE("block scales S18: every number has its own block's scale, also at partial edges") {
  constexpr Index rows = 576, columns = 200;  // 5 x 2 blocks, the last ones partial both ways
  std::vector<std::uint8_t> codes;
  for (Index i = 0; i < rows * columns; ++i) codes.push_back(static_cast<std::uint8_t>(i * 7 % 127));
  std::vector<float> scales;
  for (int i = 0; i < 10; ++i) scales.push_back(std::ldexp(1.0F, i - 5));  // exact products
  const auto got = dequantized<float>(codes, rows, columns, scales);
  std::size_t wrong = 0;
  for (Index i = 0; i < rows; ++i) {
    for (Index j = 0; j < columns; ++j) {
      const auto at = static_cast<std::size_t>(i * columns + j);
      const float scale = scales[static_cast<std::size_t>(i / 128 * 2 + j / 128)];
      if (got[at] != f8_e4m3_to_float(codes[at]) * scale) ++wrong;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("block scales S18: other extents") {
  const std::vector<std::uint8_t> ones(12, 0x38);  // 1.0
  CHECK(dequantized<double>(ones, 3, 4, {1, 2, 3, 4}, {2, 3}) ==
        std::vector<double>{1, 1, 1, 2, 1, 1, 1, 2, 3, 3, 3, 4});
}

TEST_CASE("block scales S18: all 256 codes; NaN stays NaN, denormals and the sign of zero survive") {
  std::vector<std::uint8_t> codes;
  for (int code = 0; code < 256; ++code) codes.push_back(static_cast<std::uint8_t>(code));
  const auto got = dequantized<float>(codes, 1, 256, {0.75F, 3.0F});
  for (std::size_t code = 0; code < 256; ++code) {
    const float want = f8_e4m3_to_float(codes[code]) * (code < 128 ? 0.75F : 3.0F);
    if (std::isnan(want)) {
      CHECK(std::isnan(got[code]));
    } else {
      CHECK(std::bit_cast<std::uint32_t>(got[code]) == std::bit_cast<std::uint32_t>(want));
    }
  }
  CHECK(std::signbit(got[0x80]));
  CHECK(got[1] == 0.75F * 0x1p-9F);  // the smallest denormal
  CHECK(got[0x7e] == 0.75F * 448);   // the largest number
}

TEST_CASE("block scales S18: the product is rounded to bf16 once, to nearest, ties to even") {
  // 1.125 * 1.00390625 = 1.12939453125: between the bf16 numbers 1.125 and 1.1328125, nearer to the latter.
  const auto got = dequantized<bf16>({0x39, 0x38}, 1, 2, {1.00390625F});
  CHECK(float{got[0]} == 1.1328125F);
  CHECK(float{got[1]} == 1.0F);  // 1.00390625 is a tie: 1.0 is even
}

TEST_CASE("block scales S18: a scale may be anything that a float can be") {
  const auto got = dequantized<float>({0x38, 0x00}, 1, 2, {std::numeric_limits<float>::infinity()});
  CHECK(std::isinf(got[0]));
  CHECK(std::isnan(got[1]));
}

TEST_SUITE_END();
