#include <mtpx/core/meta.hpp>
#include <mtpx/model/transformer.hpp>

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/core/meta.hpp");

TEST_CASE("Meta: a model without memory has the names and shapes of one with it") {
  for (const Config& config : {mixture_config(2), dense_config(1)}) {
    std::string want, got;
    const auto note = [](std::string& list) {
      return [&list](const std::string& name, const auto& tensor) {
        list += cat(name, ' ', tensor.shape().str(), '\n');
      };
    };
    const Transformer<float, Cpu> model(device(), config);
    for_each_tensor(model, note(want));
    const Transformer<float, Meta> shapes(Meta(), config);
    for_each_tensor(shapes, note(got));
    CHECK(got == want);
  }
}

TEST_CASE("Meta: a model of 671 billion parameters is described at once, and its bytes are counted") {
  Config c = small();
  c.vocab_size = 129280;
  c.hidden_size = 7168;
  c.intermediate_size = 18432;
  c.moe_intermediate_size = 2048;
  c.num_hidden_layers = 61;
  c.num_attention_heads = 128;
  c.q_lora_rank = 1536;
  c.kv_lora_rank = 512;
  c.n_routed_experts = 256;
  c.num_experts_per_tok = 8;
  c.n_group = 8;
  c.topk_group = 4;
  c.first_k_dense_replace = 3;
  const Meta meta;
  const Transformer<bf16, Meta> model(meta, c);
  Index numbers = 0;
  for_each_tensor(model, [&](const std::string&, const auto& tensor) { numbers += tensor.size(); });
  const Index biases = 59 * 256;  // of the routers, no parameters
  CHECK(numbers == c.parameter_count() + biases);
  CHECK(numbers / 1'000'000'000 == 682);  // 671.03 and one MTP layer of 11.61
  CHECK(meta.pool().bytes_in_use() >= static_cast<std::size_t>(2 * numbers));
}

TEST_SUITE_END();
