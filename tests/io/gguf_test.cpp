// GGUF files: their bytes, what of a model stands where, what is refused, and what a full disk leaves.

#include <mtpx/io/gguf_model.hpp>
#include <mtpx/io/instances.hpp>

#include "io/folders.hpp"
#include "io/gguf_reader.hpp"
#include "support/system_calls.hpp"

#include <cerrno>
#include <cmath>
#include <limits>

using namespace folder_test;

namespace {

constexpr GgufType f32 = GgufType::f32, f16 = GgufType::f16, b16 = GgufType::bf16, q8_0 = GgufType::q8_0;

/// A model that llama.cpp computes and drafts with, all things that need care in it: groups, YaRN of two
/// mscales, inputs of eh_proj in the other order, an embedding and a head of the module's own.
Config whole() {
  Config c = mixture_config(1);
  c.rope_scaling = RopeScaling{4, 16, 32, 1, 1, 0.7};
  c.n_group = 3;
  c.topk_group = 2;
  c.mtp_concat = MtpConcat::hidden_embedding;
  c.mtpx_own_embeddings = c.mtpx_own_heads = {1};
  return c;
}

struct Written {
  GgufSummary summary;
  gguf_test::File file;
};

Written written(const Folder& folder, GgufOptions options) {
  const GgufSummary summary = write_gguf(folder.root / "out.gguf", folder.root, options, Cpu(2));
  const std::string bytes = folder.read("out.gguf");
  CHECK(summary.bytes == static_cast<Index>(bytes.size()));
  return {summary, gguf_test::read(bytes)};
}

Written written(const Transformer<float, Cpu>& model, GgufOptions options = {.type = f32}) {
  const Folder folder;
  save_model(folder.root, model);
  return written(folder, options);
}

/// The published tensor whose numbers a tensor of the file has as they are; "" for one with an order of its
/// own.
std::string published(std::string name) {
  static const std::vector<std::pair<std::string, std::string>> parts = {
      {"token_embd.", "model.embed_tokens."},
      {"output_norm.", "model.norm."},
      {"blk.", "model.layers."},
      {"attn_q_a_norm.", "self_attn.q_a_layernorm."},
      {"attn_q_a.", "self_attn.q_a_proj."},
      {"attn_q_b.", "self_attn.q_b_proj."},
      {"attn_q.", "self_attn.q_proj."},
      {"attn_kv_a_norm.", "self_attn.kv_a_layernorm."},
      {"attn_kv_a_mqa.", "self_attn.kv_a_proj_with_mqa."},
      {"attn_output.", "self_attn.o_proj."},
      {"attn_norm.", "input_layernorm."},
      {"ffn_norm.", "post_attention_layernorm."},
      {"ffn_gate_inp.", "mlp.gate."},
      {"exp_probs_b.bias", "mlp.gate.e_score_correction_bias"},
      {"nextn.shared_head_norm.", "shared_head.norm."},
      {"nextn.shared_head_head.", "shared_head.head."},
      {"nextn.", ""}};
  for (const char* special : {"attn_k_b", "attn_v_b", "_exps", "eh_proj"}) {
    if (name.find(special) != std::string::npos) return "";
  }
  for (const std::string which : {"gate", "up", "down"}) {
    for (const auto& [from, to] :
         {std::pair("ffn_" + which + "_shexp.", "mlp.shared_experts." + which + "_proj."),
          std::pair("ffn_" + which + ".", "mlp." + which + "_proj.")}) {
      if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
    }
  }
  for (const auto& [from, to] : parts) {
    if (const auto at = name.find(from); at != std::string::npos) name.replace(at, from.size(), to);
  }
  return name == "output.weight" ? "lm_head.weight" : name;
}

void check_numbers(const gguf_test::File& file, const Transformer<float, Cpu>& model, double relative) {
  const Config& c = model.config;
  const std::map<std::string, Numbers> all = tensors(model);
  const Index rank = c.kv_lora_rank, nope = c.qk_nope_head_dim, v = c.v_head_dim, d = c.hidden_size;
  for (const auto& entry : file.tensors) {
    const std::string& name = entry.first;
    const gguf_test::Tensor& tensor = entry.second;
    CAPTURE(name);
    Numbers want;
    const std::string layer = "model.layers." + name.substr(name.find('.') + 1, 1) + ".";
    const auto of_head = [&](Index h, Index i, Index r) {
      return nth(all.at(layer + "self_attn.kv_b_proj.weight"), (h * (nope + v) + i) * rank + r);
    };
    if (const std::string from = published(name); !from.empty()) {
      REQUIRE(all.contains(from));
      want = all.at(from);
    } else if (name.find("attn_k_b") != std::string::npos) {
      CHECK(tensor.extents == std::vector<std::uint64_t>{3, 7, 2});
      for (Index h = 0; h < c.num_attention_heads; ++h) {
        for (Index r = 0; r < rank; ++r) {
          for (Index n = 0; n < nope; ++n) want.push_back(of_head(h, n, r));
        }
      }
    } else if (name.find("attn_v_b") != std::string::npos) {
      CHECK(tensor.extents == std::vector<std::uint64_t>{7, 5, 2});
      for (Index h = 0; h < c.num_attention_heads; ++h) {
        for (Index j = 0; j < v; ++j) {
          for (Index r = 0; r < rank; ++r) want.push_back(of_head(h, nope + j, r));
        }
      }
    } else if (name.find("eh_proj") != std::string::npos) {
      const bool swapped = c.mtp_concat == MtpConcat::hidden_embedding;
      for (Index i = 0; i < d; ++i) {
        for (Index j = 0; j < 2 * d; ++j)
          want.push_back(
              nth(all.at(layer + "eh_proj.weight"), i * 2 * d + (j + (swapped ? d : 0)) % (2 * d)));
      }
    } else {
      const std::size_t at = name.find("ffn_") + 4;
      for (Index e = 0; e < c.n_routed_experts; ++e) {
        const Numbers& one = all.at(
            cat(layer, "mlp.experts.", e, '.', name.substr(at, name.find("_exps") - at), "_proj.weight"));
        want.insert(want.end(), one.begin(), one.end());
      }
    }
    REQUIRE(tensor.numbers.size() == want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      if (!(std::abs(tensor.numbers[i] - want[i]) <= relative * std::abs(want[i])))
        FAIL_CHECK("number " << i << " is " << tensor.numbers[i] << " instead of " << want[i]);
    }
  }
}

/// Numbers that every type holds, and no generator has a part in.
Transformer<float, Cpu> plain_model() {
  Config c = dense_config(0);
  c.vocab_size = 3;
  c.hidden_size = 32;
  c.num_hidden_layers = 1;
  c.num_attention_heads = 1;
  Transformer<float, Cpu> model(Cpu(), c);
  int next = 0;
  for_each_tensor(model, [&](const std::string&, const auto& tensor) {
    std::vector<float> values(static_cast<std::size_t>(tensor.size()));
    for (float& value : values) value = static_cast<float>(next++ % 255 - 127) / 64;
    tensor.assign(values);
  });
  return model;
}

}  // namespace

TEST_CASE("gguf: numbers are stored as ggml stores them") {
  std::vector<float> block(32, 0.0F);
  const auto stored = [&](GgufType type) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(32 / gguf_block(type) * gguf_block_bytes(type)));
    gguf_encode(type, block, bytes.data());
    std::vector<int> all;
    for (const std::byte byte : bytes) all.push_back(static_cast<std::int8_t>(byte));
    return all;
  };
  CHECK(stored(q8_0) == std::vector<int>(34, 0));
  block = {127, 0.5F, -0.5F, 1.5F, -1.5F, 2.5F, -126.5F, 0.49F, -0.49F, 1, -1};
  block.resize(32);
  const std::vector<int> bytes = stored(q8_0);
  CHECK(
      std::vector<int>(bytes.begin(), bytes.begin() + 13) ==
      std::vector<int>{0, 0x3c, 127, 1, -1, 2, -2, 3, -127, 0, 0, 1, -1});  // the scale is 1; away from zero
  block[0] = -254;
  CHECK(stored(q8_0)[2] == -127);
  CHECK(stored(q8_0)[8] == -63);
  CHECK(stored(f16).size() == 64);
  CHECK(stored(b16).size() == 64);
  block[1] = 1.00390625F;  // between two of bf16: to the even one
  CHECK(std::vector<int>{stored(b16)[2], stored(b16)[3]} ==
        std::vector<int>{static_cast<std::int8_t>(0x80), 0x3f});
}

TEST_CASE("gguf: a small file, byte for byte") {
  // Written by this test and read by llama.cpp (tests/program/llama_test.sh): with another layout, look at
  // out.gguf, and put it there.
  const Folder folder;
  save_model(folder.root, plain_model());
  write_gguf(folder.root / "out.gguf", folder.root, {.type = q8_0}, Cpu(1));
  const std::string golden = InputFile("golden", "tests/golden/tiny.gguf").read_text(Index{1} << 16);
  CHECK((folder.read("out.gguf") == golden));
  const gguf_test::File file = gguf_test::read(golden);
  CHECK(file.keys.at("general.file_type") == "7");
  CHECK(file.tensors.at("token_embd.weight").type == 8);
  CHECK(file.tensors.at("blk.0.ffn_down.weight").type == 1);  // rows of 12
  CHECK(file.tensors.at("output_norm.weight").type == 0);
}

TEST_CASE("gguf: every number of a model stands where llama.cpp reads it, in every type") {
  const auto model = random_model<float, Cpu>(whole(), 1);
  const Written all = written(model);
  CHECK(all.summary.mtp);
  CHECK(all.summary.notices.empty());
  CHECK(all.file.tensors.size() == all.summary.tensors);
  CHECK(all.file.order.front() == "token_embd.weight");
  check_numbers(all.file, model, 0);
  for (const GgufType type : {f16, b16}) {
    const Written other = written(model, {.type = type});
    check_numbers(other.file, model, 0x1p-11);  // weights are exact in bf16; small ones are denormal halves
    CHECK(other.file.tensors.at("blk.1.ffn_gate_inp.weight").type == 0);
    CHECK(other.file.tensors.at("blk.3.nextn.enorm.weight").type == 0);
    CHECK(other.file.tensors.at("blk.3.nextn.embed_tokens.weight").type == static_cast<std::uint32_t>(type));
  }
  std::string keys;
  for (const auto& [key, value] : all.file.keys) keys += cat(key.substr(key.find('.') + 1), ' ', value, '\n');
  CHECK(keys == R"(attention.head_count 2
attention.head_count_kv 1
attention.key_length 11
attention.key_length_mla 7
attention.kv_lora_rank 7
attention.layer_norm_rms_epsilon 1e-06
attention.q_lora_rank 6
attention.value_length 7
attention.value_length_mla 5
block_count 4
context_length 64
embedding_length 8
expert_count 6
expert_feed_forward_length 3
expert_gating_func 2
expert_group_count 3
expert_group_used_count 2
expert_shared_count 1
expert_used_count 2
expert_weights_norm true
expert_weights_scale 2.5
feed_forward_length 12
leading_dense_block_count 1
nextn_predict_layers 1
rope.dimension_count 4
rope.freq_base 100
rope.scaling.attn_factor 1.03791
rope.scaling.factor 4
rope.scaling.original_context_length 16
rope.scaling.type yarn
rope.scaling.yarn_log_multiplier 0.0410958
vocab_size 11
architecture deepseek2
file_type 0
type model
ggml.model none
)");
  // YaRN as llama.cpp multiplies it out.
  const RopeScaling yarn = *whole().rope_scaling;
  const auto [factor, logarithm] = detail::gguf_yarn(yarn);
  CHECK(factor == rope_magnitude(yarn));
  CHECK(factor * (1 + 0.1 * logarithm * std::log(yarn.factor)) ==
        doctest::Approx(yarn_mscale(yarn.factor, yarn.mscale_all_dim)).epsilon(1e-12));
  CHECK(detail::gguf_yarn({40, 4096, 32, 1, 1, 1}) == std::pair(1.0, 1.0));  // DeepSeek-V3
}

TEST_CASE("gguf: other models, and where the MTP module is left out") {
  const auto check = [](const auto& change, const std::string& notice) {
    Config c = whole();
    change(c);
    const auto model = random_model<float, Cpu>(c, 1);
    const Written all = written(model);
    const std::string left_out = "written without MTP, with which llama.cpp could not draft: ";
    CHECK(all.summary.mtp == notice.empty());
    CHECK(all.summary.notices ==
          (notice.empty() ? std::vector<std::string>() : std::vector{left_out + notice}));
    CHECK(all.file.tensors.contains("blk.3.nextn.eh_proj.weight") == notice.empty());
    CHECK(all.file.keys.at("deepseek2.block_count") == (notice.empty() ? "4" : "3"));
    check_numbers(all.file, model, 0);
    return all.file;
  };
  check([](Config& c) { c.mtp_concat = MtpConcat::embedding_hidden; }, "");
  check([](Config& c) { c.set_depths(3, MtpHeads::repeated); }, "");
  check([](Config& c) { c.set_depths(2, MtpHeads::sequential); }, "it has one module, the model has 2");
  check([](Config& c) { c.set_depths(1, MtpHeads::parallel); }, "the depths are no modules of DeepSeek-V3's");
  check([](Config& c) { c.mtp_hidden = MtpHidden::pre_norm; },
        "it feeds the state behind the final norm, mtp_hidden = pre_norm");
  check([](Config& c) { c.first_k_dense_replace = 9; }, "its module is a mixture, the model's is dense");
  const auto plain =
      check([](Config& c) { c.q_lora_rank = 0; }, "its module has a q_lora_rank, the model has none");
  CHECK(plain.keys.at("deepseek2.attention.q_lora_rank") == "0");
  CHECK(!plain.keys.contains("deepseek2.nextn_predict_layers"));
  const auto softmax = check(
      [](Config& c) {
        c.scoring_func = ScoringFunc::softmax;
        c.norm_topk_prob = false;
        c.topk_group = 3;  // all of them: no choice among groups
        c.tie_word_embeddings = true;
        c.mtpx_own_heads = {};
        c.rope_scaling.reset();
      },
      "");
  CHECK(softmax.keys.at("deepseek2.expert_gating_func") == "1");
  CHECK(softmax.keys.at("deepseek2.rope.scaling.type") == "none");
  CHECK(!softmax.keys.contains("deepseek2.expert_group_count"));
  CHECK(!softmax.tensors.contains("output.weight"));
  CHECK(!softmax.tensors.contains("blk.1.exp_probs_b.bias"));
  Config yarn = whole();
  yarn.rope_scaling->beta_fast = 1;
  CHECK(
      written(random_model<float, Cpu>(yarn, 1)).summary.notices ==
      std::vector<std::string>{"llama.cpp computes this model with these options only: --yarn-beta-fast 1"});
  const auto model = random_model<float, Cpu>(whole(), 1);
  const Written without = written(model, {.type = f32, .mtp = false});
  CHECK(!without.summary.mtp);
  CHECK(without.summary.notices.empty());
  CHECK(without.file.keys.at("deepseek2.block_count") == "3");
}

TEST_CASE("gguf: the latents' own epsilon, and weights of 8 bits") {
  Config c = whole();
  c.rms_norm_eps = 1e-3;  // 1000 times that of the latents: their numbers become 32 times as large
  CHECK(detail::gguf_latent_scale(c) == 32);
  auto model = random_model<float, Cpu>(c, 1);
  const gguf_test::File file = written(model).file;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
    const bool keys = name.ends_with("kv_a_proj_with_mqa.weight");
    if (!keys && !name.ends_with("q_a_proj.weight")) return;
    std::vector<float> values = tensor.to_host();
    if (keys)
      values.resize(static_cast<std::size_t>(c.kv_lora_rank * c.hidden_size));  // not the rotated part
    for (float& value : values) value *= 32;
    std::vector<float> all = tensor.to_host();
    std::copy(values.begin(), values.end(), all.begin());
    tensor.assign(all);
  });
  check_numbers(file, model, 0);

  const Folder folder;
  write_gguf(folder.root / "out.gguf", "tests/golden/fp8", {.type = f32}, Cpu(2));
  const auto scaled = gguf_test::read(folder.read("out.gguf"));
  const auto loaded = tensors(load_model<float>(Cpu(), "tests/golden/fp8").model);
  for (const char* name : {"blk.0.attn_q_b.weight", "blk.0.ffn_up.weight", "blk.1.attn_output.weight"}) {
    if (!scaled.tensors.contains(name)) continue;
    const auto& numbers = scaled.tensors.at(name).numbers;
    CHECK(Numbers(numbers.begin(), numbers.end()) == loaded.at(published(name)));
  }
}

TEST_CASE("gguf: what llama.cpp cannot compute is refused by name, what a type cannot hold by its place") {
  const auto refused = [](const auto& change) {
    Config c = whole();
    change(c);
    std::string all;
    for (const std::string& line : detail::not_in_deepseek2(c, false)) all += line + '\n';
    return all;
  };
  CHECK(refused([](Config&) {}) == "");
  CHECK(refused([](Config& c) { c.n_shared_experts = 0; }) == "n_shared_experts = 0: it wants one\n");
  CHECK(refused([](Config& c) { c.num_hidden_layers = 27; }) ==
        "q_lora_rank = 6: it takes models of 27 layers for others that have none\n");
  CHECK(refused([](Config& c) { c.num_hidden_layers = 600; }) ==
        "num_hidden_layers = 600: it has at most 512\n");
  CHECK(refused([](Config& c) { c.n_routed_experts = 1026; }) ==
        "n_routed_experts = 1026: it has at most 1024\n");
  CHECK(refused([](Config& c) { c.scoring_func = ScoringFunc::softmax; }) ==
        "n_group = 3, topk_group = 2 with a softmax: to it a group is worth its two best experts, not one\n");
  const Folder folder;
  Config c = whole();
  c.n_shared_experts = 0;
  save_model(folder.root, random_model<float, Cpu>(c, 1));
  const auto error = [&]<typename Kind>(Kind*, GgufOptions options) {
    return folder.error<Kind>([&] { write_gguf(folder.root / "out.gguf", folder.root, options, Cpu(2)); });
  };
  CHECK(error(static_cast<ConfigError*>(nullptr), {}) ==
        "[config] config.json: llama.cpp cannot compute this model\n  n_shared_experts = 0: it wants one");
  CHECK(error(static_cast<ConfigError*>(nullptr), {.tokenizer = Tokenizer()}) != "");

  const auto with = [&](float value) {
    auto model = random_model<float, Cpu>(dense_config(0), 1);
    std::vector<float> numbers = model.lm_head->weight.value().to_host();
    numbers[5] = value;
    model.lm_head->weight.value().assign(numbers);
    save_model(folder.root, model);
  };
  with(65520);
  CHECK(error(static_cast<NumericError*>(nullptr), {.type = f16}) ==
        "[gguf] tensor \"output.weight\": number 5 is 65520, which f16 cannot hold");
  CHECK(error(static_cast<NumericError*>(nullptr), {.type = b16}) == "");
  std::filesystem::remove(folder.root / "out.gguf");
  with(std::numeric_limits<float>::quiet_NaN());
  CHECK(error(static_cast<NumericError*>(nullptr), {.type = f32}) ==
        "[gguf] tensor \"output.weight\": number 5 is nan, which f32 cannot hold");
  CHECK(folder.files() == 2);  // the model's
}

TEST_CASE("gguf: a writer that is used otherwise than announced") {
  const Folder folder;
  const auto error = [&](std::vector<GgufTensor> tensors, std::vector<std::size_t> writes) {
    return folder.error([&] {
      GgufWriter writer(folder.root / "x", GgufKeys(), std::move(tensors), Cpu(1));
      for (const std::size_t count : writes) writer.write(std::vector<float>(count));
      writer.finish();
    });
  };
  CHECK(error({{"a", q8_0, {2, 33}}}, {}) ==
        "[gguf] x: tensor \"a\": shape [2, 33] cannot be written as q8_0");
  CHECK(error({{"a", f32, {}}}, {}) == "[gguf] x: tensor \"a\": shape [] cannot be written as f32");
  CHECK(error({{"a", f32, {1, 0}}}, {}) == "[gguf] x: tensor \"a\": shape [1, 0] cannot be written as f32");
  CHECK(error({{"a", f32, {1}}, {"a", f32, {1}}}, {}) == "[gguf] x: tensor \"a\" stands twice");
  CHECK(error({{"a", q8_0, {64}}}, {40}) ==
        "[gguf] x: tensor \"a\": 40 numbers from number 0 on were given; it has 64");
  CHECK(error({{"a", f32, {4}}}, {3, 2}) ==
        "[gguf] x: tensor \"a\": 2 numbers from number 3 on were given; it has 4");
  CHECK(error({{"a", f32, {4}}}, {4, 1}) == "[gguf] x: all tensors have been written");
  CHECK(error({{"a", f32, {4}}}, {3}) == "[gguf] x: only 0 of 1 tensors were written");
  CHECK(folder.files() == 0);
  CHECK(error({{"a", f32, {4}}}, {3, 1}) == "");
}

TEST_CASE("gguf: MTP layers of a sidecar are written as the folder's own would be; how far it is is told") {
  const Folder folder;
  const auto whole_model = random_model<float>(whole(), 4);
  save_model(folder.root / "whole", whole_model);
  save_model(folder.root / "bare", whole_model, Json::object(), false);
  save_sidecar(folder.root / "side.safetensors", whole_model, main_fingerprint(folder.root / "bare"));
  write_gguf(folder.root / "whole.gguf", folder.root / "whole", {.type = b16}, Cpu(2));
  GgufOptions options{.type = b16, .sidecar = folder.root / "side.safetensors"};
  Index told = 0, of = 0;
  options.progress = [&](Index done, Index all) {
    CHECK(done > told);
    told = done, of = all;
  };
  CHECK(write_gguf(folder.root / "joined.gguf", folder.root / "bare", options, Cpu(2)).mtp);
  CHECK(folder.read("joined.gguf") == folder.read("whole.gguf"));
  CHECK(told == of);
  CHECK(told > 1000);
}

TEST_CASE("gguf: a full disk at any call leaves the old file, and nothing else") {
  const Folder folder;
  save_model(folder.root, plain_model());
  const auto write = [&] { write_gguf(folder.root / "out.gguf", folder.root, {.type = f32}, Cpu(1)); };
  write();
  const std::string complete = folder.read("out.gguf");
  fault_at(0, Fault::none);
  write();
  const int calls = stop_faults();
  REQUIRE(calls > 20);
  for (const Fault fault : {Fault::error, Fault::lost}) {
    for (int at = 0; at < calls; ++at) {
      CAPTURE(at);
      folder.write("out.gguf", "old");
      fault_at(at, fault, ENOSPC);
      const std::string error = folder.error([&] { write(); });
      stop_faults();
      const std::string now = folder.read("out.gguf");
      if (fault == Fault::error) CHECK(error.ends_with(std::generic_category().message(ENOSPC)));
      if (fault == Fault::lost || error.find("is in place") == std::string::npos)
        CHECK((now == (error.empty() ? complete : "old")));
      CHECK(folder.files() == 3);
    }
  }
}
