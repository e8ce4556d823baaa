#include <mtpx/io/config_json.hpp>

#include "support.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>

using namespace mtpx;
using mtpx_test::Folder;

namespace {

/// A complete config.json: the tiny model, spelt as it is published.
Json tiny_json() {
  return Json::parse(
      R"({"model_type": "deepseek_v3", "vocab_size": 256, "hidden_size": 256, "intermediate_size": 768,
    "moe_intermediate_size": 128, "num_hidden_layers": 4, "num_nextn_predict_layers": 1, "num_attention_heads": 4,
    "q_lora_rank": 96, "kv_lora_rank": 64, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32,
    "n_routed_experts": 8, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "routed_scaling_factor": 1.0, "norm_topk_prob": true, "scoring_func": "sigmoid", "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048})");
}

/// The tiny model with some keys replaced by those of `changes` (JSON text).
Json changed(const std::string& changes) {
  Json json = tiny_json();
  json.update(Json::parse(changes));
  return json;
}

Config config_of(const Json& json) { return parse_config(json.dump(), "f").config; }

/// What is wrong with the file, without "[config] f: these keys cannot be used\n  ".
std::string problem_of(const Json& json) {
  try {
    parse_config(json.dump(), "f");
  } catch (const ConfigError& error) {
    const std::string text = error.what();
    const std::string head = "[config] f: these keys cannot be used\n  ";
    return text.rfind(head, 0) == 0 ? text.substr(head.size()) : text;
  }
  return "";
}
std::string problem(const std::string& changes) { return problem_of(changed(changes)); }

const std::string yarn_keys = R"("factor": 40, "original_max_position_embeddings": 4096)";

}  // namespace

TEST_CASE("config.json: a published file") {
  CHECK(config_of(tiny_json()) == tiny());
  const ModelConfig model = parse_config(
      changed(R"({"architectures": ["DeepseekV3ForCausalLM"], "hidden_act": "silu", "topk_method": "noaux_tc",
                  "moe_layer_freq": 1, "attention_bias": false, "tie_word_embeddings": false, "rope_interleave": true,
                  "num_key_value_heads": 4, "attention_dropout": 0.0, "bos_token_id": 0, "eos_token_id": null,
                  "torch_dtype": "bfloat16",
                  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                                          "weight_block_size": [64, 128]},
                  "aux_loss_alpha": 0.001, "initializer_range": 0.02, "mtp_concat": "hidden_embedding",
                  "mtp_hidden": "pre_norm"})")
          .dump(),
      "f");
  Config want = tiny();
  want.bos_token_id = 0;
  want.aux_loss_alpha = 0.001;
  want.initializer_range = 0.02;
  want.mtp_concat = MtpConcat::hidden_embedding;
  want.mtp_hidden = MtpHidden::pre_norm;
  CHECK(model.config == want);
  CHECK(model.extra.dump() == R"({"architectures":["DeepseekV3ForCausalLM"],"torch_dtype":"bfloat16"})");
  CHECK(model.block_size == BlockSize{64, 128});
}

TEST_CASE("config.json: out and in again, byte for byte") {
  Config yarned = small();
  yarned.rope_scaling = RopeScaling{40, 4096, 32, 1, 1, 0.707};
  yarned.q_lora_rank = 0;
  yarned.eos_token_id = 1;
  yarned.rms_norm_eps = 0.1 + 0.2;  // needs all its digits
  yarned.mtp_concat = MtpConcat::hidden_embedding;
  yarned.num_nextn_predict_layers = 0;
  yarned.tie_word_embeddings = true;
  Config own = tiny();
  own.mtpx_own_embeddings = own.mtpx_own_heads = {1};
  own.mtpx_markov_rank = 5;
  const Json extra =
      Json::parse(R"({"torch_dtype": "float32", "z": {"deep": [1, null]}, "a": "M\u00fcller"})");
  for (const Config& config : {tiny(), deep(), small(), yarned, own}) {
    const std::string text = config_json(config, extra);
    const ModelConfig model = parse_config(text, "f");
    CHECK(model.config == config);
    CHECK(config_json(model.config, model.extra) == text);
  }
  const Json json = Json::parse(config_json(yarned, extra));
  CHECK(json.begin().key() == "architectures");
  CHECK(json["architectures"].dump() == R"(["DeepseekV3ForCausalLM"])");
  CHECK(json["model_type"] == "deepseek_v3");
  CHECK(json["q_lora_rank"].is_null());
  CHECK(json["bos_token_id"].is_null());
  CHECK(json["num_key_value_heads"] == 8);
  CHECK(json["rope_scaling"]["type"] == "yarn");
  CHECK(json["z"]["deep"][1].is_null());
  CHECK(!Json::parse(config_json(tiny())).contains("rope_scaling"));
  // The configuration is right about its own keys.
  CHECK(Json::parse(config_json(tiny(), {{"vocab_size", 7}}))["vocab_size"] == 256);
}

TEST_CASE("config.json: a model without experts reads as dense elsewhere") {
  Config dense = tiny();
  dense.n_routed_experts = 0;
  CHECK(Json::parse(config_json(dense))["first_k_dense_replace"] == 5);
  Json bare = tiny_json();
  for (const char* key : {"moe_intermediate_size", "n_shared_experts", "num_experts_per_tok", "n_group",
                          "topk_group", "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace"}) {
    bare.erase(key);
  }
  bare["n_routed_experts"] = 0;
  CHECK(config_of(bare).n_routed_experts == 0);
}

TEST_CASE("config.json: rotary positions in both spellings") {
  const RopeScaling want{40, 4096, 32, 1, 1, 0};
  const auto scaling = [](const std::string& changes) { return config_of(changed(changes)).rope_scaling; };
  CHECK(scaling("{}") == std::nullopt);
  CHECK(scaling(R"({"rope_scaling": null})") == std::nullopt);
  CHECK(scaling(R"({"rope_scaling": {"type": "yarn", )" + yarn_keys + "}}") == want);
  CHECK(scaling(R"({"rope_scaling": {"rope_type": "yarn", "type": "yarn", )" + yarn_keys + "}}") == want);
  CHECK(scaling(R"({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "truncate": true,
                   "attention_factor": null, "partial_rotary_factor": 1.0, )" +
                yarn_keys + "}}") == want);
  CHECK(scaling(R"({"rope_scaling": {"type": "yarn", "beta_fast": 16, "beta_slow": 2, "mscale": 0.5,
                   "mscale_all_dim": 0.25, )" +
                yarn_keys + "}}") == RopeScaling{40, 4096, 16, 2, 0.5, 0.25});
  CHECK(scaling(R"({"rope_parameters": {"rope_type": "default", "rope_theta": 10000}})") == std::nullopt);

  Json newer = tiny_json();
  newer.erase("rope_theta");
  CHECK(problem_of(newer) == "rope_theta is missing");
  newer["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 50000}};
  CHECK(config_of(newer).rope_theta == 50000);
}

TEST_CASE("config.json: rotary positions that contradict or cannot be honoured") {
  CHECK(problem(R"({"rope_parameters": {"rope_theta": 50000}})") ==
        "rope_theta = 10000 and 50000: given twice, and different");
  CHECK(problem(R"({"rope_parameters": {}, "rope_scaling": {"type": "yarn", )" + yarn_keys + "}}") ==
        "rope_scaling and rope_parameters are both given, and different");
  CHECK(problem(R"({"rope_scaling": {"type": "linear", "factor": 2}})") ==
        "rope_scaling.type = \"linear\": only \"default\" and \"yarn\" are supported\n"
        "  rope_scaling.factor = 2: is not known without the type \"yarn\"");
  CHECK(problem(R"({"rope_scaling": {"type": "yarn"}})") ==
        "rope_scaling.factor is missing\n  rope_scaling.original_max_position_embeddings is missing");
  for (const std::string one :
       {R"("mscale": 0.5)", R"("mscale_all_dim": 1)", R"("mscale": 0, "mscale_all_dim": 1)"}) {
    CHECK(problem(R"({"rope_scaling": {"type": "yarn", )" + one + ", " + yarn_keys + "}}")
              .ends_with("published programs agree only where both are given and not 0, or neither is"));
  }
  CHECK(problem(R"({"rope_scaling": {"type": "yarn", "attention_factor": 1.5, )" + yarn_keys + "}}") ==
        "rope_scaling.attention_factor = 1.5: only null is supported");
  CHECK(problem(R"({"rope_scaling": {"type": "yarn", "truncate": false, )" + yarn_keys + "}}") ==
        "rope_scaling.truncate = false: only true is supported");
  CHECK(problem(R"({"rope_scaling": {"type": "yarn", "curve": [], )" + yarn_keys + "}}") ==
        "rope_scaling.curve = an array: is not known");
  CHECK(problem(R"({"rope_parameters": {"partial_rotary_factor": 0.5}})") ==
        "rope_parameters.partial_rotary_factor = 0.5: only 1 is supported");
  CHECK(problem(R"({"rope_scaling": "yarn"})") == "rope_scaling = \"yarn\": must be an object or null");
  CHECK(
      problem(
          R"({"rope_scaling": {"type": "yarn", "factor": null, "original_max_position_embeddings": 1.5}})") ==
      "rope_scaling.factor = null: must be a number\n"
      "  rope_scaling.original_max_position_embeddings = 1.5: must be a whole number from 0 to "
      "9223372036854775807");
}

TEST_CASE("config.json F1: all missing keys at once") {
  CHECK(problem_of(Json::object()) ==
        "model_type is missing\n  vocab_size is missing\n  hidden_size is missing\n  intermediate_size is "
        "missing\n"
        "  num_hidden_layers is missing\n  num_attention_heads is missing\n  kv_lora_rank is missing\n"
        "  qk_nope_head_dim is missing\n  qk_rope_head_dim is missing\n  v_head_dim is missing\n"
        "  rms_norm_eps is missing\n  max_position_embeddings is missing\n  q_lora_rank is missing\n"
        "  rope_theta is missing");
  for (const char* key : {"moe_intermediate_size", "num_experts_per_tok", "n_shared_experts"}) {
    Json some = tiny_json();
    for (const char* other :
         {"moe_intermediate_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group",
          "topk_group", "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace"}) {
      if (other != std::string(key)) some.erase(other);
    }
    std::string all = problem_of(some) + '\n';
    for (const char* wanted : {"n_routed_experts", "n_group", "topk_group", "routed_scaling_factor",
                               "norm_topk_prob", "first_k_dense_replace"}) {
      CHECK(all.find(std::string(wanted) + " is missing\n") != std::string::npos);
    }
  }
}

TEST_CASE("config.json F1: values of the wrong type") {
  const std::string whole = ": must be a whole number from 0 to 9223372036854775807";
  CHECK(problem(R"({"hidden_size": "256"})") == "hidden_size = \"256\"" + whole);
  CHECK(problem(R"({"hidden_size": null})") == "hidden_size = null" + whole);
  CHECK(problem(R"({"hidden_size": true})") == "hidden_size = true" + whole);
  CHECK(problem(R"({"hidden_size": [256]})") == "hidden_size = an array" + whole);
  CHECK(problem(R"({"hidden_size": {}})") == "hidden_size = an object" + whole);
  CHECK(problem(R"({"hidden_size": -256})") == "hidden_size = -256" + whole);
  CHECK(problem(R"({"hidden_size": 256.5})") == "hidden_size = 256.5" + whole);
  CHECK(problem(R"({"hidden_size": 256.0})") == "hidden_size = 256.0" + whole);
  CHECK(problem(R"({"hidden_size": 9223372036854775808})") == "hidden_size = 9223372036854775808" + whole);
  CHECK(problem(R"({"bos_token_id": -1})") == "bos_token_id = -1" + whole);
  CHECK(problem(R"({"eos_token_id": [1, -2]})") ==
        "eos_token_id = an array: must be a whole number or a list of them");
  CHECK(problem(R"({"mtpx_own_heads": 1})") == "mtpx_own_heads = 1: must be a list of whole numbers");
  CHECK(problem(R"({"mtpx_own_heads": [0.5]})") ==
        "mtpx_own_heads = an array: must be a list of whole numbers");
  CHECK(problem(R"({"rms_norm_eps": "1e-6"})") == "rms_norm_eps = \"1e-6\": must be a number");
  CHECK(problem(R"({"norm_topk_prob": 1})") == "norm_topk_prob = 1: must be true or false");
  CHECK(problem(R"({"q_lora_rank": "none"})") == "q_lora_rank = \"none\"" + whole);
  CHECK(config_of(changed(R"({"q_lora_rank": null, "rope_theta": 10000, "rms_norm_eps": 1})")).q_lora_rank ==
        0);
}

TEST_CASE("config.json F1 F7: what cannot be honoured is refused by name") {
  const std::string types =
      ": only \"deepseek_v2\", \"deepseek_v3\", \"kimi_k2\", \"joyai_llm_flash\", \"glm4_moe_lite\", "
      "\"youtu\" are supported, "
      "and "
      "others with architectures = [\"DeepseekV3ForCausalLM\"]";
  CHECK(problem(R"({"model_type": "llama"})") == "model_type = \"llama\"" + types);
  CHECK(problem(R"({"model_type": null, "architectures": ["DeepseekV3ForCausalLM"]})") ==
        "model_type = null" + types);
  CHECK(problem(R"({"model_type": "own", "architectures": ["DeepseekV3ForCausalLM"]})") == "");
  CHECK(problem(R"({"partial_rotary_factor": 0.5})") == "partial_rotary_factor = 0.5: only 1 is supported");
  CHECK(problem(R"({"mlp_bias": true})") == "mlp_bias = true: only false is supported");
  CHECK(problem(R"({"mlp_layer_types": ["dense", "sparse", "dense", "sparse"]})") ==
        "mlp_layer_types = an array: must be \"dense\" for the first 1 of 4 layers and \"sparse\" for the "
        "others");
  CHECK(problem(R"({"scoring_func": "softmax"})") ==
        "scoring_func = \"softmax\": only \"sigmoid\" is supported");
  CHECK(problem(R"({"hidden_act": "gelu"})") == "hidden_act = \"gelu\": only \"silu\" is supported");
  CHECK(problem(R"({"topk_method": "greedy"})") ==
        "topk_method = \"greedy\": only \"noaux_tc\" is supported");
  CHECK(problem(R"({"attention_bias": true})") == "attention_bias = true: only false is supported");
  CHECK(problem(R"({"tie_word_embeddings": 1})") == "tie_word_embeddings = 1: must be true or false");
  CHECK(problem(R"({"moe_layer_freq": 2})") == "moe_layer_freq = 2: only 1 is supported");
  CHECK(problem(R"({"rope_interleave": false})") == "rope_interleave = false: only true is supported");
  CHECK(problem(R"({"attention_dropout": 0.1})") == "attention_dropout = 0.1: only 0 is supported");
  CHECK(problem(R"({"mtp_concat": "sum"})") ==
        "mtp_concat = \"sum\": only \"embedding_hidden\" and \"hidden_embedding\" are supported");
  CHECK(problem(R"({"mtp_hidden": true})") ==
        "mtp_hidden = true: only \"post_norm\" and \"pre_norm\" are supported");
  CHECK(problem(R"({"mtpx_heads": "medusa"})") ==
        "mtpx_heads = \"medusa\": only \"sequential\" and \"repeated\" and \"parallel\" and \"linear\" are "
        "supported");
}

TEST_CASE("config.json: the models of other names that are computed as DeepSeek-V3 is (REAL_MODELS)") {
  // GigaChat3.1-10B-A1.8B, by its facts.
  const std::string gigachat = R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 128256, "hidden_size": 1536, "intermediate_size": 8960, "moe_intermediate_size": 1280,
    "num_hidden_layers": 26, "num_nextn_predict_layers": 1, "num_attention_heads": 32, "num_key_value_heads": 32,
    "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 192,
    "n_routed_experts": 64, "n_shared_experts": 1, "num_experts_per_tok": 4, "n_group": 1, "topk_group": 1,
    "scoring_func": "sigmoid", "routed_scaling_factor": 1, "norm_topk_prob": true, "first_k_dense_replace": 1,
    "rms_norm_eps": 1e-06, "rope_theta": 100000, "max_position_embeddings": 262144, "bos_token_id": 1, "eos_token_id": 2,
    "rope_scaling": {"type": "yarn", "factor": 64, "original_max_position_embeddings": 4096, "mscale": 1,
                     "mscale_all_dim": 1}, "tie_word_embeddings": false})";
  CHECK(parse_config(gigachat, "f").config.v_head_dim == 192);
  // The others differ from it in what they are called, and in how they say it.
  const auto like = [&](const std::string& changes) {
    Json json = Json::parse(gigachat);
    json.update(Json::parse(changes));
    return parse_config(json.dump(), "f");
  };
  const auto again = [](const ModelConfig& model) {
    return parse_config(config_json(model.config, model.extra), "again");
  };
  for (const char* type : {"kimi_k2", "joyai_llm_flash"}) {
    const ModelConfig model = like(cat(R"({"model_type": ")", type, R"(", "num_key_value_heads": 4})"));
    CHECK(model.config == parse_config(gigachat, "f").config);
    const Json written = Json::parse(config_json(model.config, model.extra));
    CHECK(written["model_type"] == type);
    CHECK(written["architectures"] == Json{"DeepseekV3ForCausalLM"});
    CHECK(written["num_key_value_heads"] == 32);
    CHECK(again(model).config == model.config);
  }
  // GLM-4.7-Flash: several ends, a list of layers.
  Json layers = Json::array({"dense"});
  for (int layer = 1; layer < 26; ++layer) layers.push_back("sparse");
  const ModelConfig glm = like(R"({"architectures": ["Glm4MoeLiteForCausalLM"], "model_type": "glm4_moe_lite",
    "eos_token_id": [5, 7, 9], "qk_nope_head_dim": 192, "v_head_dim": 256, "partial_rotary_factor": 1.0,
    "rope_scaling": null, "rope_parameters": {"rope_theta": 1e5, "rope_type": "default", "partial_rotary_factor": 1.0},
    "mlp_layer_types": )" + layers.dump() +
                               "}");
  CHECK(glm.config.eos_token_id == 5);
  CHECK(glm.config.more_eos_token_ids == std::vector<Index>{7, 9});
  CHECK(again(glm).config == glm.config);
  CHECK(again(glm).extra == glm.extra);
  CHECK(glm.extra["mlp_layer_types"] == layers);
  CHECK(Json::parse(config_json(glm.config, glm.extra))["architectures"] == Json{"Glm4MoeLiteForCausalLM"});
  CHECK(like(R"({"eos_token_id": []})").config.eos_token_id == -1);
  CHECK(like(R"({"eos_token_id": [3]})").config.eos_token_id == 3);
  // Dense by absence, and by more dense layers than there are. Tied where nothing else is said.
  Json youtu = Json::parse(gigachat);
  for (const char* key :
       {"moe_intermediate_size", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group",
        "topk_group", "scoring_func", "routed_scaling_factor", "norm_topk_prob", "first_k_dense_replace",
        "num_nextn_predict_layers", "tie_word_embeddings"}) {
    youtu.erase(key);
  }
  youtu.update({{"architectures", {"YoutuForCausalLM"}}, {"model_type", "youtu"}, {"mlp_bias", false}});
  CHECK(config_of(youtu).n_routed_experts == 0);
  CHECK(!config_of(youtu).is_moe(25));
  youtu["n_routed_experts"] = nullptr;
  CHECK(config_of(youtu).n_routed_experts == 0);
  CHECK(config_of(youtu).tie_word_embeddings);
  CHECK(again(parse_config(youtu.dump(), "f")).config.tie_word_embeddings);
  youtu["tie_word_embeddings"] = false;
  CHECK(!config_of(youtu).tie_word_embeddings);
  const Config dense = like(R"({"first_k_dense_replace": 99})").config;
  CHECK(!dense.is_moe(26));
  CHECK(dense.first_k_dense_replace == 99);
}

TEST_CASE("config.json: DeepSeek-V2, whose router is another") {
  // DeepSeek-V2-Lite, by what is published of it.
  const std::string lite = R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
    "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 64,
    "n_shared_experts": 2, "num_experts_per_tok": 6, "n_group": 1, "topk_group": 1, "topk_method": "greedy",
    "scoring_func": "softmax", "routed_scaling_factor": 1.0, "norm_topk_prob": false, "first_k_dense_replace": 1,
    "moe_layer_freq": 1, "seq_aux": true, "aux_loss_alpha": 0.001, "rms_norm_eps": 1e-06, "rope_theta": 10000,
    "max_position_embeddings": 163840, "bos_token_id": 100000, "eos_token_id": 100001,
    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32,
                     "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707}})";
  const ModelConfig model = parse_config(lite, "f");
  CHECK(model.config.scoring_func == ScoringFunc::softmax);
  const std::string text = config_json(model.config, model.extra);
  CHECK(parse_config(text, "f").config == model.config);
  const Json written = Json::parse(text);
  for (const char* key : {"architectures", "model_type", "topk_method", "scoring_func", "seq_aux"})
    CHECK(written[key] == Json::parse(lite)[key]);
  CHECK(Json::parse(config_json(model.config))["architectures"] == Json{"DeepseekV2ForCausalLM"});
  const auto with = [&](const std::string& changes) {
    Json json = Json::parse(lite);
    json.update(Json::parse(changes));
    return json;
  };
  const Config grouped =
      config_of(with(R"({"topk_method": "group_limited_greedy", "n_group": 8, "topk_group": 3})"));
  CHECK(grouped.n_group == 8);
  CHECK(Json::parse(config_json(grouped))["topk_method"] == "group_limited_greedy");
  // Without groups what is said of them means nothing.
  CHECK(config_of(with(R"({"n_group": null, "topk_group": null})")) == model.config);
  CHECK(config_of(with(R"({"n_group": 8, "topk_group": 3})")) == model.config);

  CHECK(problem_of(with(R"({"scoring_func": "sigmoid"})")) ==
        "scoring_func = \"sigmoid\": only \"softmax\" is supported");
  CHECK(problem_of(with(R"({"topk_method": "noaux_tc"})")) ==
        "topk_method = \"noaux_tc\": only \"greedy\" and \"group_limited_greedy\" are supported");
  CHECK(problem_of(with(R"({"architectures": ["DeepseekV3ForCausalLM"]})")) ==
        "architectures = an array: only [\"DeepseekV2ForCausalLM\"] is supported");
  CHECK(problem_of(with(R"({"norm_topk_prob": true})")) ==
        "[config] f: these values do not add up\n  norm_topk_prob = true: published programs of DeepSeek-V2 "
        "disagree about it, it must be false");
  CHECK(problem(R"({"scoring_func": "softmax", "topk_method": "greedy"})") ==
        "scoring_func = \"softmax\": only \"sigmoid\" is supported\n"
        "  topk_method = \"greedy\": only \"noaux_tc\" is supported");
}

TEST_CASE("config.json: dense layers that only a list or the type tells") {
  Json glm = changed(R"({"model_type": "glm4_moe_lite", "architectures": ["Glm4MoeLiteForCausalLM"]})");
  CHECK(config_of(glm).first_k_dense_replace == 1);
  glm["first_k_dense_replace"] = 2;
  CHECK(problem_of(glm) ==
        "first_k_dense_replace = 2: without mlp_layer_types, glm4_moe_lite has one dense layer elsewhere");
  glm.erase("first_k_dense_replace");
  CHECK(config_of(glm).first_k_dense_replace == 1);
  glm["mlp_layer_types"] = {"dense", "dense", "dense", "sparse"};
  CHECK(config_of(glm).first_k_dense_replace == 3);
  glm["mlp_layer_types"] = {"dense", "dense", "dense", "dense"};
  CHECK(config_of(glm).first_k_dense_replace == 4);
  glm["mlp_layer_types"] = {"sparse", "dense", "sparse", "sparse"};
  CHECK(problem_of(glm).starts_with(
      "mlp_layer_types = an array: must be \"dense\" for the first 0 of 4 layers"));
}

TEST_CASE("config.json F8: only the published quantisation is read") {
  const auto with = [](const std::string& value) {
    return problem(R"({"quantization_config": )" + value + "}");
  };
  CHECK(with("\"fp8\"") == "quantization_config = \"fp8\": must be an object or null");
  CHECK(with("{}") == "quantization_config.quant_method is missing");
  CHECK(with(R"({"quant_method": "gptq", "bits": 4})") ==
        "quantization_config.quant_method = \"gptq\": only \"fp8\" and \"mtpx_int8\" are supported");
  CHECK(with(R"({"quant_method": "fp8", "fmt": "e5m2"})") ==
        "quantization_config.fmt = \"e5m2\": only \"e4m3\" is supported");
  for (const std::string extents : {"[128]", "[0, 128]", "[128, -1]", "[128, 1.5]", "[128, 128, 1]"}) {
    CHECK(with(R"({"quant_method": "fp8", "weight_block_size": )" + extents + "}") ==
          "quantization_config.weight_block_size = an array: must be an array of two positive whole numbers");
  }
  CHECK(parse_config(changed(R"({"quantization_config": null})").dump(), "f").block_size == BlockSize{});
}

TEST_CASE("config.json F5: any depth below the context, absent means none") {
  Json json = tiny_json();
  json.erase("num_nextn_predict_layers");
  CHECK(config_of(json).num_nextn_predict_layers == 0);
  for (const Index depth : {0, 1, 3, 2047}) {
    CHECK(config_of(changed(cat(R"({"num_nextn_predict_layers": )", depth, "}"))).num_nextn_predict_layers ==
          depth);
  }
  CHECK(problem(R"({"num_nextn_predict_layers": 2048})") ==
        "[config] f: these values do not add up\n"
        "  num_nextn_predict_layers = 2048, max_position_embeddings = 2048: depth k predicts nothing in the "
        "last k positions, so the depth must be smaller");
}

TEST_CASE("config.json F6: epsilon and the base of rotary positions are positive") {
  const std::string head = "[config] f: these values do not add up\n  ";
  CHECK(problem(R"({"rms_norm_eps": 0})") == head + "rms_norm_eps = 0: must be a finite number above 0");
  CHECK(problem(R"({"rms_norm_eps": -1e-6})") ==
        head + "rms_norm_eps = -1e-06: must be a finite number above 0");
  CHECK(problem(R"({"rms_norm_eps": "NaN"})") == "rms_norm_eps = \"NaN\": must be a number");
  CHECK(problem(R"({"rope_theta": 0})") == head + "rope_theta = 0: must be a finite number above 0");
}

TEST_CASE("config.json F3: sizes beyond 64 bits are refused with an estimate") {
  CHECK(problem(R"({"hidden_size": 2147483647, "vocab_size": 2147483647, "intermediate_size": 2147483647})")
            .starts_with("[config] f: these values do not add up\n  vocab_size = 2147483647, hidden_size = "
                         "2147483647, intermediate_size = 2147483647, num_hidden_layers = 4, "
                         "n_routed_experts = 8: about "));
}

TEST_CASE("config.json F2 F4: numbers that do not add up, with the file's name") {
  CHECK(problem(R"({"hidden_size": 0, "qk_rope_head_dim": 7, "n_group": 3})") ==
        "[config] f: these values do not add up\n"
        "  hidden_size = 0: must be at least 1\n"
        "  qk_rope_head_dim = 7: must be even, it is rotated in pairs\n"
        "  n_routed_experts = 8, n_group = 3: the groups must be equally large");
  CHECK(problem(R"({"vocab_size": 4611686018427387904})") ==
        "[config] f: these values do not add up\n  vocab_size = 4611686018427387904: must be at most "
        "2147483647");
}

TEST_CASE("config.json: text that is no configuration") {
  const auto error = [](const std::string& text) -> std::string {
    try {
      parse_config(text, "f");
    } catch (const FileError& failure) {
      return failure.what();
    }
    return "";
  };
  CHECK(error("") == "[config] f: is not JSON at byte 1");
  CHECK(error("{\"a\": 1, \"a\": 1}") == "[config] f: the key \"a\" stands twice");
  CHECK(error("[1]") == "[config] f: must be an object, not an array");
  CHECK(error("\"text\"") == "[config] f: must be an object, not \"text\"");
  CHECK(error("{\"hidden_size\": 1e999}") == "[config] f: holds a number beyond the range of a double");
}

TEST_CASE("config.json: files") {
  const Folder folder;
  write_config(folder.root / "config.json", tiny(), {{"torch_dtype", "float32"}});
  const ModelConfig model = read_config(folder.root / "config.json");
  CHECK(model.config == tiny());
  CHECK(model.extra["torch_dtype"] == "float32");
  CHECK(folder.files() == 1);
  CHECK(folder.error([&] { read_config(folder.root / "none"); }) ==
        "[config] none: cannot be opened: No such file or directory");
  folder.write("long", std::string((1 << 20) + 1, ' '));
  CHECK(folder.error([&] { read_config(folder.root / "long"); }) ==
        "[config] long: has 1048577 bytes; at most 1048576 are read");
  folder.write("bad", "{}");
  CHECK(folder.error<ConfigError>([&] { read_config(folder.root / "bad"); })
            .rfind("[config] bad: these keys", 0) == 0);
}
