#include <mtpx/nn/block.hpp>

#include "support/card.hpp"

#include <sstream>

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/nn/block.hpp");

namespace {

BlockOptions options(bool mixture) {
  BlockOptions o;
  o.attention = {6, 2, 0, 5, 3, 2, 4, 0.4};
  if (mixture) o.moe = MoeOptions{6, 3, 1, {4, 2, 1, 1, true, 1.5}, 0.5};
  o.intermediate = 7;
  o.eps = 0.01;
  return o;
}

Block<double, Device> random_block(bool mixture) {
  Block<double, Device> block(device(), options(mixture));
  std::uint64_t stream = 30;
  for_each_parameter(block, [&](const std::string&, auto& parameter) {
    parameter.value().assign(random_tensor<double>(parameter.shape(), ++stream).to_host());
  });
  return block;
}

/// Stands in for attention: what the block computes around it does not depend on it.
const auto twice = [](const auto&, const Var<double, Device>& x) { return add(x, x); };

}  // namespace

TEST_CASE("Block: h = x + attention(norm(x)), y = h + ffn(norm(h))") {
  for (const bool mixture : {false, true}) {
    const auto block = random_block(mixture);
    const auto value = random_tensor<double>({2, 3, 6}, 1);
    Tape tape;
    const auto x = tape.constant(value);
    const auto out = block(x, twice);
    const auto normed = block.input_layernorm(x);
    const auto h = add(x, add(normed, normed));
    const auto inside = block.post_attention_layernorm(h);
    const auto want = mixture ? (*block.moe)(inside).y : (*block.mlp)(inside);
    check_close(host(out.y.value()), host(add(h, want).value()), 1e-13);
    CHECK(out.balance.defined() == mixture);
    CHECK(block.input_layernorm.eps == 0.01);
    CHECK(block.post_attention_layernorm.eps == 0.01);
  }
}

TEST_CASE("Block: the attention given to `attend` is its own") {
  const auto block = random_block(false);
  Tape tape;
  const Mla<double, Device>* seen = nullptr;
  block(tape.constant(random_tensor<double>({1, 2, 6}, 1)), [&](const auto& mla, const auto& x) {
    seen = &mla;
    return x;
  });
  CHECK(seen == &block.self_attn);
}

TEST_CASE("Block: dense and mixture stand under the same name, mlp") {
  for (const bool mixture : {false, true}) {
    std::string names;
    const auto block = random_block(mixture);
    for_each_tensor(block, [&](const std::string& name, const auto&) { names += name + ' '; });
    CHECK(names.starts_with("input_layernorm.weight self_attn.q_proj.weight "));
    CHECK(names.find("post_attention_layernorm.weight mlp.") != std::string::npos);
    CHECK((names.find("mlp.experts.3.down_proj.weight mlp.shared_experts") != std::string::npos) == mixture);
    CHECK((names.find("mlp.gate_proj.weight mlp.up_proj.weight mlp.down_proj.weight") != std::string::npos) !=
          mixture);
  }
}

TEST_CASE("Block: steps and errors carry the path of the part that made them") {
  const auto block = random_block(false);
  Tape tape;
  const auto x = tape.constant(random_tensor<double>({1, 2, 6}, 1));
  block(x, twice);
  std::ostringstream text;
  tape.print(text);
  CHECK(text.str() ==
        "self_attn.rms_norm [1, 2, 6]\n"
        "self_attn.add [1, 2, 6]\n"
        "add_rms_norm [1, 2, 6]\n"
        "mlp.linear [1, 2, 7]\n"
        "mlp.linear [1, 2, 7]\n"
        "mlp.swiglu [1, 2, 7]\n"
        "mlp.linear [1, 2, 6]\n"
        "mlp.add [1, 2, 6]\n");
}

TEST_SUITE_END();
