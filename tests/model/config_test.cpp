#include <mtpx/model/config.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <string>
#include <vector>

using namespace mtpx;

namespace {

/// One string for several lines: what differs is printed when a check fails.
std::string lines(const std::vector<std::string>& all) {
  std::string text;
  for (const std::string& line : all) text += (text.empty() ? "" : "\n") + line;
  return text;
}

auto count_of(const std::string& text) {
  return text.empty() ? 0 : 1 + std::count(text.begin(), text.end(), '\n');
}

/// The published DeepSeek-V3.
Config deepseek_v3() {
  Config config;
  config.vocab_size = 129280;
  config.hidden_size = 7168;
  config.intermediate_size = 18432;
  config.moe_intermediate_size = 2048;
  config.num_hidden_layers = 61;
  config.num_nextn_predict_layers = 1;
  config.num_attention_heads = 128;
  config.q_lora_rank = 1536;
  config.kv_lora_rank = 512;
  config.qk_nope_head_dim = 128;
  config.qk_rope_head_dim = 64;
  config.v_head_dim = 128;
  config.n_routed_experts = 256;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = 8;
  config.n_group = 8;
  config.topk_group = 4;
  config.routed_scaling_factor = 2.5;
  config.first_k_dense_replace = 3;
  config.rope_scaling = RopeScaling{40, 4096, 32, 1, 1, 1};
  config.max_position_embeddings = 163840;
  config.bos_token_id = 0;
  config.eos_token_id = 1;
  return config;
}

/// The violations of the tiny preset after a change.
template <typename Change>
std::string after(Change change) {
  Config config = tiny();
  change(config);
  return lines(config.violations());
}

const double not_a_number = std::numeric_limits<double>::quiet_NaN();
const double infinite = std::numeric_limits<double>::infinity();

}  // namespace

TEST_CASE("config: the presets") {
  Config want;  // ../shared/peers/tiny.json, by hand
  want.vocab_size = 256, want.hidden_size = 256, want.intermediate_size = 768,
  want.moe_intermediate_size = 128;
  want.num_hidden_layers = 4, want.num_nextn_predict_layers = 1, want.num_attention_heads = 4;
  want.q_lora_rank = 96, want.kv_lora_rank = 64;
  want.qk_nope_head_dim = 32, want.qk_rope_head_dim = 16, want.v_head_dim = 32;
  want.n_routed_experts = 8, want.n_shared_experts = 1, want.num_experts_per_tok = 2;
  want.n_group = 1, want.topk_group = 1, want.routed_scaling_factor = 1.0, want.norm_topk_prob = true;
  want.first_k_dense_replace = 1, want.rms_norm_eps = 1e-6, want.rope_theta = 10000.0;
  want.max_position_embeddings = 2048;
  CHECK(tiny() == want);
  CHECK(preset("tiny") == want);

  // small.json
  want.vocab_size = 32768, want.hidden_size = 1024, want.intermediate_size = 4096,
  want.moe_intermediate_size = 512;
  want.num_hidden_layers = 12, want.num_attention_heads = 8, want.q_lora_rank = 384, want.kv_lora_rank = 256;
  want.qk_nope_head_dim = 128, want.qk_rope_head_dim = 64, want.v_head_dim = 128;
  want.n_routed_experts = 32, want.num_experts_per_tok = 4, want.max_position_embeddings = 4096;
  CHECK(small() == want);
  CHECK(preset("small") == want);

  CHECK(preset("deep") == deep());
  CHECK(preset("nano") == nano());
  CHECK(deep().num_hidden_layers == 16);
  CHECK(deep().hidden_size == 192);
  CHECK(deep().num_nextn_predict_layers == 3);
  CHECK(deep().num_mtp_modules() == 1);
  CHECK(preset("base") == base());
  CHECK(base().num_mtp_modules() == 1);
  CHECK(base().parameter_count() == 299809408);
  for (const char* name : {"tiny", "deep", "base", "small"}) CHECK_NOTHROW(preset(name).validate());
  CHECK_THROWS_WITH_AS(preset("huge"),
                       "[config] no preset is called \"huge\"; there are nano, tiny, deep, base and small",
                       ConfigError);
}

TEST_CASE("config: which layers route to experts") {
  const Config config = tiny();
  CHECK(!config.is_moe(0));
  CHECK(config.is_moe(1));
  CHECK(config.is_moe(3));
  CHECK(config.is_moe(4));  // the MTP layer
  for (Index layer = 0; layer < deep().num_layers(); ++layer) CHECK(!deep().is_moe(layer));
  CHECK(tiny().qk_head_dim() == 48);
  CHECK(tiny().num_layers() == 5);
}

TEST_CASE("config: the exact number of parameters") {
  Config config = deepseek_v3();
  const Index with_mtp = config.parameter_count();
  config.num_nextn_predict_layers = 0;
  // The released main model has 671,026,419,200 numbers; 58 layers x 256 of them are router biases.
  CHECK(config.parameter_count() == 671'026'419'200 - 58 * 256);
  // MLA 187.1 M, experts 11,320.2 M, eh_proj 102.8 M and five norms, two of them of the block.
  CHECK(with_mtp - config.parameter_count() == 11'610'067'968);

  Config one;  // two layers, small enough for a sum by hand
  one.vocab_size = 5, one.hidden_size = 4, one.intermediate_size = 6, one.moe_intermediate_size = 3;
  one.num_hidden_layers = 2, one.num_attention_heads = 2, one.kv_lora_rank = 3;
  one.qk_nope_head_dim = 2, one.qk_rope_head_dim = 2, one.v_head_dim = 3, one.max_position_embeddings = 8;
  const Index attention =
      4 * 2 * 4 + (4 * (3 + 2) + 3 + 3 * 2 * (2 + 3)) + 2 * 3 * 4;  // q, kv_a, norm, kv_b, o
  const Index dense = attention + 2 * 4 + 3 * 4 * 6;
  CHECK(one.parameter_count() == 2 * 5 * 4 + 4 + 2 * dense);
  one.n_routed_experts = 3, one.n_shared_experts = 2, one.num_experts_per_tok = 1,
  one.first_k_dense_replace = 1;
  const Index moe = attention + 2 * 4 + 3 * 4 * 3 * (3 + 2) + 4 * 3;
  CHECK(one.parameter_count() == 2 * 5 * 4 + 4 + dense + moe);
  one.q_lora_rank = 2;
  const Index more = (4 * 2 + 2 + 2 * 2 * 4) - 4 * 2 * 4;
  CHECK(one.parameter_count() == 2 * 5 * 4 + 4 + dense + moe + 2 * more);
  one.num_nextn_predict_layers = 3;
  CHECK(one.parameter_count() == 2 * 5 * 4 + 4 + dense + 4 * moe + 5 * more + 3 * (2 * 4 * 4 + 3 * 4));
}

TEST_CASE("config: the draft of the deep preset costs about a sixteenth of its trunk") {
  Config config = deep();
  const double with_mtp = static_cast<double>(config.parameter_count());
  config.num_nextn_predict_layers = 0;
  const double trunk = static_cast<double>(config.parameter_count());
  CHECK((with_mtp - trunk) / trunk < 1.0 / 12);
  CHECK((with_mtp - trunk) / trunk > 1.0 / 17);
}

TEST_CASE("config F1: sizes that were never set are all named") {
  CHECK_THROWS_WITH_AS(Config{}.validate(),
                       "[config] these values do not add up\n"
                       "  vocab_size = 0: must be at least 1\n"
                       "  hidden_size = 0: must be at least 1\n"
                       "  intermediate_size = 0: must be at least 1\n"
                       "  num_hidden_layers = 0: must be at least 1\n"
                       "  num_attention_heads = 0: must be at least 1\n"
                       "  kv_lora_rank = 0: must be at least 1\n"
                       "  qk_nope_head_dim = 0: must be at least 1\n"
                       "  qk_rope_head_dim = 0: must be at least 2\n"
                       "  v_head_dim = 0: must be at least 1\n"
                       "  max_position_embeddings = 0: must be at least 1",
                       ConfigError);
  CHECK_THROWS_AS(Config{}.parameter_count(), ConfigError);
}

TEST_CASE("config F2: zero and negative counts") {
  CHECK(after([](Config& c) { c.hidden_size = 0; }) == lines({"hidden_size = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.num_attention_heads = -4; }) ==
        lines({"num_attention_heads = -4: must be at least 1"}));
  CHECK(after([](Config& c) { c.num_hidden_layers = 0; }) ==
        lines({"num_hidden_layers = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.vocab_size = 0; }) == lines({"vocab_size = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.n_routed_experts = -1; }) ==
        lines({"n_routed_experts = -1: must be at least 0"}));
  CHECK(after([](Config& c) { c.num_experts_per_tok = 0; }) ==
        lines({"num_experts_per_tok = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.n_group = 0; }) == lines({"n_group = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.topk_group = 0; }) == lines({"topk_group = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.moe_intermediate_size = 0; }) ==
        lines({"moe_intermediate_size = 0: must be at least 1"}));
  CHECK(after([](Config& c) { c.n_shared_experts = -1; }) ==
        lines({"n_shared_experts = -1: must be at least 0"}));
  CHECK(after([](Config& c) { c.q_lora_rank = -1; }) == lines({"q_lora_rank = -1: must be at least 0"}));
  CHECK(after([](Config& c) { c.first_k_dense_replace = -1; }) ==
        lines({"first_k_dense_replace = -1: must be at least 0"}));
  CHECK(after([](Config& c) { c.bos_token_id = -2; }) == lines({"bos_token_id = -2: must be at least -1"}));
  const Index lowest = std::numeric_limits<Index>::min();
  CHECK(count_of(after([&](Config& c) { c.max_position_embeddings = c.vocab_size = c.n_group = lowest; })) ==
        3);
  // What only experts use does not matter without them.
  CHECK(after([](Config& c) { c.n_routed_experts = c.num_experts_per_tok = c.n_group = 0; }).empty());
}

TEST_CASE("config F3: sizes beyond counting") {
  CHECK(after([](Config& c) { c.vocab_size = Index{1} << 31; }) ==
        lines({"vocab_size = 2147483648: must be at most 2147483647"}));
  CHECK(after([](Config& c) { c.hidden_size = std::numeric_limits<Index>::max(); }) ==
        lines({"hidden_size = 9223372036854775807: must be at most 2147483647"}));
  const Index most = std::numeric_limits<std::int32_t>::max();
  CHECK(
      after([&](Config& c) { c.hidden_size = c.intermediate_size = most; }) ==
      lines({"vocab_size = 256, hidden_size = 2147483647, intermediate_size = 2147483647, num_hidden_layers "
             "= 4, "
             "n_routed_experts = 8: about 2.30585e+19 parameters, 3.68935e+20 bytes to train, more than 64 "
             "bits can "
             "count"}));
  // All at the limit at once: nothing overflows on the way to the estimate.
  const std::string all = after([&](Config& c) {
    for (Index* count : {&c.vocab_size, &c.hidden_size, &c.intermediate_size, &c.moe_intermediate_size,
                         &c.num_hidden_layers, &c.num_attention_heads, &c.q_lora_rank, &c.kv_lora_rank,
                         &c.qk_nope_head_dim, &c.v_head_dim, &c.n_routed_experts, &c.n_shared_experts}) {
      *count = most;
    }
  });
  CHECK(count_of(all) == 1);
  // A kind of layer that is absent counts too: its size is computed.
  CHECK(after([&](Config& c) { c.n_routed_experts = 0, c.moe_intermediate_size = most; }).empty());
  CHECK(count_of(after([&](Config& c) {
          c.first_k_dense_replace = 0, c.hidden_size = c.intermediate_size = most;
        })) == 1);
}

TEST_CASE("config F4: counts that do not fit each other") {
  CHECK(after([](Config& c) { c.qk_rope_head_dim = 15; }) ==
        lines({"qk_rope_head_dim = 15: must be even, it is rotated in pairs"}));
  CHECK(after([](Config& c) { c.num_experts_per_tok = 9; }) ==
        lines({"num_experts_per_tok = 9, n_routed_experts = 8: a token takes an expert once"}));
  CHECK(after([](Config& c) { c.topk_group = 2; }) ==
        lines({"topk_group = 2, n_group = 1: a token takes a group once"}));
  CHECK(after([](Config& c) { c.n_group = 3; }) ==
        lines({"n_routed_experts = 8, n_group = 3: the groups must be equally large"}));
  CHECK(
      after([](Config& c) { c.n_group = 8, c.topk_group = 4; }) ==
      lines({"n_routed_experts = 8, n_group = 8: a group is scored by its two best experts, so it must have "
             "two"}));
  CHECK(
      after([](Config& c) { c.n_group = 4, c.num_experts_per_tok = 3; }) ==
      lines({"num_experts_per_tok = 3, n_routed_experts = 8, n_group = 4, topk_group = 1: the chosen groups "
             "hold "
             "only 2 experts"}));
  // Dense throughout, MTP layer included.
  CHECK(after([](Config& c) { c.first_k_dense_replace = 5; }).empty());
  CHECK(after([](Config& c) { c.first_k_dense_replace = 99; }).empty());
  Config dense = tiny(), beyond = tiny();
  dense.first_k_dense_replace = 5;
  beyond.first_k_dense_replace = 99;
  CHECK(beyond.parameter_count() == dense.parameter_count());
  CHECK(!beyond.is_moe(4));
  CHECK(after([](Config& c) {
          c.eos_token_id = 1, c.more_eos_token_ids = {2, 256};
        }) == lines({"eos_token_id = 256, vocab_size = 256: must be a token, or -1 for none"}));
  CHECK(after([](Config& c) { c.mtpx_draft_vocabulary = 257; }) ==
        lines({"mtpx_draft_vocabulary = 257, vocab_size = 256: drafts are picked from tokens"}));
  CHECK(after([](Config& c) { c.mtpx_draft_vocabulary = 256; }).empty());
  CHECK(after([](Config& c) { c.more_eos_token_ids = {-1}; }) ==
        lines({"eos_token_id = -1: must be a token in a list of them"}));
  CHECK(after([](Config& c) { c.eos_token_id = 256; }) ==
        lines({"eos_token_id = 256, vocab_size = 256: must be a token, or -1 for none"}));
  CHECK(after([](Config& c) { c.bos_token_id = 255; }).empty());
  CHECK(after([](Config& c) { c.mtpx_own_heads = c.mtpx_own_embeddings = {1}; }).empty());
  CHECK(
      after([](Config& c) {
        c.mtpx_own_heads = {1, 1, 2};
      }) ==
      lines({"mtpx_own_heads: 1 must be one of the 1 depths that have a module, each named once, in order",
             "mtpx_own_heads: 2 must be one of the 1 depths that have a module, each named once, in order"}));
  CHECK(after([](Config& c) {
          c.mtpx_heads = MtpHeads::parallel;
          c.mtpx_own_embeddings = {1};
        }) == "mtpx_own_embeddings: depths of this design read no token");
}

TEST_CASE("config F5: the depth") {
  CHECK(after([](Config& c) { c.num_nextn_predict_layers = 0; }).empty());
  CHECK(after([](Config& c) { c.num_nextn_predict_layers = 3; }).empty());
  CHECK(after([](Config& c) { c.num_nextn_predict_layers = -1; }) ==
        lines({"num_nextn_predict_layers = -1: must be at least 0"}));
  CHECK(after([](Config& c) { c.num_nextn_predict_layers = 7, c.max_position_embeddings = 8; }).empty());
  CHECK(after([](Config& c) { c.num_nextn_predict_layers = c.max_position_embeddings = 8; }) ==
        lines({"num_nextn_predict_layers = 8, max_position_embeddings = 8: depth k predicts nothing in the "
               "last k "
               "positions, so the depth must be smaller"}));
}

TEST_CASE("config F6: numbers that are no measure") {
  for (double bad : {0.0, -1e-6, not_a_number, infinite}) {
    CHECK(after([&](Config& c) { c.rms_norm_eps = bad; }) ==
          lines({cat("rms_norm_eps = ", bad, ": must be a finite number above 0")}));
    CHECK(after([&](Config& c) { c.rope_theta = bad; }) ==
          lines({cat("rope_theta = ", bad, ": must be a finite number above 0")}));
    CHECK(after([&](Config& c) { c.initializer_range = bad; }) ==
          lines({cat("initializer_range = ", bad, ": must be a finite number above 0")}));
    CHECK(after([&](Config& c) { c.routed_scaling_factor = bad; }) ==
          lines({cat("routed_scaling_factor = ", bad, ": must be a finite number above 0")}));
  }
  CHECK(after([](Config& c) { c.aux_loss_alpha = 0; }).empty());
  CHECK(after([](Config& c) { c.aux_loss_alpha = -1; }) ==
        lines({"aux_loss_alpha = -1: must be a finite number, at least 0"}));

  const auto stretched = [](RopeScaling scaling) {
    return after([&](Config& c) { c.rope_scaling = scaling; });
  };
  CHECK(stretched({40, 4096}).empty());
  CHECK(stretched({0.5, 4096}) == lines({"rope_scaling.factor = 0.5: must be a finite number, at least 1"}));
  CHECK(stretched({40, 0}) ==
        lines({"rope_scaling.original_max_position_embeddings = 0: must be at least 1"}));
  CHECK(stretched({40, 4096, 1, 32}) ==
        lines({"rope_scaling.beta_fast = 1: must be a finite number, at least 32"}));
  CHECK(stretched({40, 4096, 32, 0}) ==
        lines({"rope_scaling.beta_slow = 0: must be a finite number above 0"}));
  CHECK(stretched({40, 4096, 32, 1, not_a_number, -1}) ==
        lines({"rope_scaling.mscale = nan: must be a finite number, at least 0",
               "rope_scaling.mscale_all_dim = -1: must be a finite number, at least 0"}));
  CHECK(after([](Config& c) {
          c.rope_theta = 1, c.rope_scaling = RopeScaling{40, 4096};
        }) == lines({"rope_theta = 1: must be a finite number above 1"}));
}

TEST_CASE("config: violations of different kinds are listed together") {
  CHECK(after([](Config& c) {
          c.hidden_size = 0, c.rms_norm_eps = 0, c.qk_rope_head_dim = 7, c.n_group = 3;
        }) ==
        lines({"hidden_size = 0: must be at least 1", "rms_norm_eps = 0: must be a finite number above 0",
               "qk_rope_head_dim = 7: must be even, it is rotated in pairs",
               "n_routed_experts = 8, n_group = 3: the groups must be equally large"}));
}
