// The mixture of DeepSeek-V2 (arXiv 2405.04434, sec. 2.2): a softmax, no bias.

#include <mtpx/decode/generate.hpp>

#include "support/model.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("DeepSeek-V2's mixture");

namespace {

MoeOptions v2_options(Index n_group, Index topk_group) {
  return {.hidden = 5,
          .inner = 3,
          .shared = 2,
          .routing = {.n_experts = 6,
                      .top_k = 2,
                      .n_group = n_group,
                      .topk_group = topk_group,
                      .norm_topk_prob = false,
                      .scaling_factor = 2.5,
                      .scoring = ScoringFunc::softmax},
          .balance_alpha = 0.01};
}

Moe<double, Device> v2_moe(const MoeOptions& o) {
  Moe<double, Device> moe(device(), o);
  std::uint64_t stream = 0;
  for_each_tensor(moe, [&](const std::string&, const auto& tensor) {
    tensor.assign(random_tensor<double>(tensor.shape(), ++stream).to_host());
  });
  return moe;
}

}  // namespace

TEST_CASE("mixture of DeepSeek-V2: y = sum of s_i E_i(x) times the factor, and the shared ones") {
  for (const Index groups : {1, 3}) {
    const MoeOptions o = v2_options(groups, std::min<Index>(groups, 2));
    auto moe = v2_moe(o);
    std::vector<std::string> names;
    for_each_tensor(moe, [&](const std::string& name, const auto&) { names.push_back(name); });
    CHECK(std::count_if(names.begin(), names.end(), [](const auto& n) { return n.ends_with("bias"); }) == 0);
    const auto x = random_tensor<double>({2, 4, 5}, 9);
    Tape tape(Mode::inference);
    const Numbers got = host(moe(tape.constant(x)).y.value());

    const auto w = [](const auto& module) { return host(module.weight.value()); };
    const Numbers scores = reference::softmax(reference::linear(host(x), w(moe.gate.linear), 5, 6), 6);
    const reference::Route route(scores, {}, o.routing);
    Numbers weights;
    for (std::size_t i = 0; i < route.ids.size(); ++i)
      weights.push_back(2.5 * nth(scores, static_cast<Index>(i) / 2 * 6 + route.ids[i]));
    Numbers want = reference::experts({8, 5, 3, 6, 2}, host(x), weights, route.ids, w(moe.experts.gate_proj),
                                      w(moe.experts.up_proj), w(moe.experts.down_proj));
    const auto& shared = *moe.shared_experts;
    const Numbers gate = reference::linear(host(x), w(shared.gate_proj), 5, 6);
    const Numbers up = reference::linear(host(x), w(shared.up_proj), 5, 6);
    const Numbers always = reference::linear(reference::swiglu(gate, up), w(shared.down_proj), 6, 5);
    for (std::size_t i = 0; i < want.size(); ++i) want[i] += always[i];
    check_close(got, want, 1e-13);

    Tape training;
    moe(training.input(x));
    CHECK(host(moe.load) != Numbers(6, 0.0));
    const Numbers load = host(moe.load);
    moe.update_bias(0.125);
    CHECK(host(moe.load) == Numbers(6, 0.0));
    CHECK(host(moe.last_load) == load);
  }
}

TEST_CASE("mixture of DeepSeek-V2: every gradient of a whole model, and its text, drafted") {
  Config c = mixture_config(2);
  c.scoring_func = ScoringFunc::softmax;
  c.norm_topk_prob = false;
  auto model = random_model(c, 3);
  std::vector<GradcheckTarget<Device>> targets;
  for_each_parameter(model, [&](const std::string& name, auto& parameter) {
    targets.push_back({name, parameter});
  });
  const auto batch = random_batch(2, 4, 11);
  const auto report = gradcheck<Device>(
      targets,
      [&](Tape& outer) {
        Tape counted;  // balance losses are computed in training only
        Tape& tape = outer.recording() ? outer : counted;
        const auto loss = mtp_loss(model, model(tape, batch), batch, {.lambda = 0.7});
        return outer.recording() ? loss.total : outer.constant(loss.total.value());
      },
      2e-5, 7);
  INFO("worst of " << report.checked << ": " << report.where);
  CHECK(report.within(1e-9));

  const auto text = [&](Index draft) {
    const GenerateOptions how{.max_tokens = 30, .draft = draft, .sampling = {.temperature = 0.9}, .seed = 5};
    Ints all;
    generate(model, {1, 2, 3}, how, [&](std::int32_t token) { all.push_back(token); });
    return all;
  };
  CHECK(text(2) == text(0));
}

TEST_CASE("mixture of DeepSeek-V2: the fused kernels, whose router takes sigmoids, do not take it") {
  DecodeFeedForward<bf16> p;
  p.rows = 1, p.hidden = p.inner = 64;
  p.routing = Routing{64, 6};
  CHECK(decode_fits(p));
  p.routing.scoring = ScoringFunc::softmax;
  CHECK_FALSE(decode_fits(p));
}

TEST_SUITE_END();
