#include <mtpx/mtp/module.hpp>

#include "support/card.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/mtp/module.hpp");

namespace {

using Module = MtpModule<double, Device>;

Module random_module(MtpConcat order, MtpHidden carries) {
  BlockOptions o;
  o.attention = {4, 1, 0, 3, 2, 2, 2, 0.5};
  o.intermediate = 5;
  o.eps = 0.01;
  Module module(device(), o, MtpDesign{}, order, carries);
  std::uint64_t stream = 20;
  for_each_parameter(module, [&](const std::string&, auto& parameter) {
    parameter.value().assign(random_tensor<double>(parameter.shape(), ++stream).to_host());
  });
  return module;
}

/// Stands in for the block: y = x + x, and a balance loss of 7.
Module::Output run_twice(const Module& module, const Var<double, Device>& h, const Var<double, Device>& e) {
  return module(h, e, {}, {}, [](const Block<double, Device>&, const Var<double, Device>& x) {
    return Block<double, Device>::Output{add(x, x), x.tape()->constant(tensor<double>({1}, {7}))};
  });
}

const std::vector<MtpConcat> orders{MtpConcat::embedding_hidden, MtpConcat::hidden_embedding};

}  // namespace

TEST_CASE("MtpModule: eh_proj of the two norms, the block, the norm; both orders, both carried states") {
  const auto h = random_tensor<double>({2, 3, 4}, 1);
  const auto e = random_tensor<double>({2, 3, 4}, 2);
  for (const MtpConcat order : orders) {
    for (const MtpHidden carries : {MtpHidden::post_norm, MtpHidden::pre_norm}) {
      const Module module = random_module(order, carries);
      const auto gain = [](const RmsNorm<double, Device>& norm) { return host(norm.weight.value()); };
      const Numbers token = reference::rms_norm(host(e), gain(module.input->enorm), 0.01);
      const Numbers state = reference::rms_norm(host(h), gain(module.input->hnorm), 0.01);
      Numbers joined;
      for (Index r = 0; r < 6; ++r) {
        for (const Numbers* half : order == MtpConcat::embedding_hidden ? std::vector{&token, &state}
                                                                        : std::vector{&state, &token}) {
          joined.insert(joined.end(), half->begin() + r * 4, half->begin() + r * 4 + 4);
        }
      }
      Numbers block = reference::linear(joined, host(module.input->eh_proj.weight.value()), 8, 4);
      for (double& x : block) x *= 2;
      const Numbers normed = reference::rms_norm(block, gain(*module.norm), 0.01);

      Tape tape;
      const auto out = run_twice(module, tape.constant(h), tape.constant(e));
      check_close(host(out.hidden.normed.value()), normed, 1e-13);
      check_close(host(out.hidden.carried.value()), carries == MtpHidden::post_norm ? normed : block, 1e-13);
      CHECK(host(out.balance.value()) == Numbers{7});
    }
  }
}

TEST_CASE("MtpModule: gradients reach the state, the embedding and every parameter outside the block") {
  for (const MtpConcat order : orders) {
    Module module = random_module(order, MtpHidden::pre_norm);
    const auto h = activation(random_tensor<double>({2, 3, 4}, 1));
    const auto e = activation(random_tensor<double>({2, 3, 4}, 2));
    const auto report = gradcheck<Device>(
        {{"h", h},
         {"e", e},
         {"enorm", module.input->enorm.weight},
         {"hnorm", module.input->hnorm.weight},
         {"eh_proj", module.input->eh_proj.weight},
         {"norm", module.norm->weight}},
        [&](Tape& tape) {
          const auto out = run_twice(module, tape.adopt(h), tape.adopt(e));
          const auto c = random_tensor<double>({2, 3, 4}, 1000);
          const auto d = random_tensor<double>({2, 3, 4}, 1001);
          return weighted_sum<double, Device>({inner(out.hidden.normed, c), inner(out.hidden.carried, d)},
                                              {1.0, 1.0});
        },
        1e-3);
    INFO(report.where);
    CHECK(report.within(1e-7));
  }
}

TEST_CASE("MtpModule: published names") {
  const Module module = random_module(orders[0], MtpHidden::post_norm);
  std::vector<std::string> names;
  for_each_tensor(module, [&](const std::string& name, const auto& tensor) {
    names.push_back(cat(name, ' ', tensor.shape().str()));
  });
  CHECK(names ==
        std::vector<std::string>{"enorm.weight [4]", "hnorm.weight [4]", "eh_proj.weight [4, 8]",
                                 "input_layernorm.weight [4]", "self_attn.q_proj.weight [4, 4]",
                                 "self_attn.kv_a_proj_with_mqa.weight [5, 4]",
                                 "self_attn.kv_a_layernorm.weight [3]", "self_attn.kv_b_proj.weight [4, 3]",
                                 "self_attn.o_proj.weight [4, 2]", "post_attention_layernorm.weight [4]",
                                 "mlp.gate_proj.weight [5, 4]", "mlp.up_proj.weight [5, 4]",
                                 "mlp.down_proj.weight [4, 5]", "shared_head.norm.weight [4]"});
}

TEST_SUITE_END();
