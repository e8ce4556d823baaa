// The whole model against finite differences, in double: what no test of a part can see, such as a gradient
// that two depths share.

#include "support/model.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("mtpx/model/transformer.hpp: gradients");

namespace {

// Within 2h no token changes its experts for the seeds below: a change would show as an error near 1.
constexpr double h = 2e-5;

GradcheckReport check(const Config& config, std::uint64_t seed, const Batch<Device>& batch,
                      const MtpLossOptions& options, Index stride) {
  auto model = random_model(config, seed);
  std::vector<GradcheckTarget<Device>> targets;
  for_each_parameter(model, [&](const std::string& name, auto& parameter) {
    targets.push_back({name, parameter});
  });
  const auto report = gradcheck<Device>(
      targets,
      [&](Tape& outer) {
        Tape counted;  // balance losses are computed in training only
        Tape& tape = outer.recording() ? outer : counted;
        const auto loss = mtp_loss(model, model(tape, batch), batch, options);
        return outer.recording() ? loss.total : outer.constant(loss.total.value());
      },
      h, stride);
  if (stride == 1) {
    Index entries = 0;
    for (const auto& target : targets) entries += target.var.shape().size();
    CHECK(report.checked == entries);
    CHECK(entries == config.parameter_count());
  }
  // What is compared is large enough to be compared: no gradient is below the bound throughout.
  for (const auto& target : targets) {
    double largest = 0;
    for (const double g : host(target.var.grad())) largest = std::max(largest, std::abs(g));
    INFO(target.name);
    CHECK(largest > 1e-4);
  }
  return report;
}

}  // namespace

TEST_CASE("gradients: every parameter of 1 dense + 2 MoE layers, D = 2, groups, YaRN, latent queries") {
  const Config config = mixture_config(2);
  CHECK(config.rope_scaling.has_value());
  const auto report = check(config, 3, random_batch(2, 4, 11), {0.7, {}, LossDivisor::valid_rows}, 1);
  INFO("worst of " << report.checked << ": " << report.where);
  CHECK(report.within(1e-9));
}

TEST_CASE("gradients: a bias from the token before, of heads on one state and of a repeated module") {
  for (const MtpHeads heads : {MtpHeads::linear, MtpHeads::repeated}) {
    Config config = dense_config(2);
    config.mtpx_heads = heads;
    config.mtpx_markov_rank = 3;
    const auto report = check(config, 4, random_batch(2, 5, 13), {0.7, {}, LossDivisor::valid_rows}, 1);
    INFO("worst of " << report.checked << ": " << report.where);
    CHECK(report.within(1e-9));
  }
}

TEST_CASE("gradients: dense, direct queries, state before the norm and first, by all positions, packed") {
  Config config = dense_config(2);
  config.mtp_hidden = MtpHidden::pre_norm;
  config.mtp_concat = MtpConcat::hidden_embedding;
  Batch<Device> batch = random_batch(2, 6, 11);
  batch.positions = tensor<std::int32_t>({2, 7}, {0, 1, 2, 3, 0, 1, 2, 4, 5, 0, 1, 2, 3, 4});
  for (const bool mask : {false, true}) {
    batch.mask_documents = mask;
    const auto report = check(config, 4, batch, {0.7, {1.0, 2.0}, LossDivisor::all_positions}, 5);
    INFO("worst of " << report.checked << ": " << report.where);
    CHECK(report.within(1e-9));
  }
}

TEST_CASE("gradients: embedding and head are one matrix") {
  for (const MtpHeads heads : {MtpHeads::sequential, MtpHeads::parallel}) {
    Config config = dense_config(2);
    config.tie_word_embeddings = true;
    config.mtpx_heads = heads;
    const auto report = check(config, 3, random_batch(2, 4, 11), {0.7, {}, LossDivisor::valid_rows}, 1);
    INFO("worst of " << report.checked << ": " << report.where);
    CHECK(report.within(1e-9));
  }
}

TEST_CASE("gradients: one module for all depths, parallel heads, linear heads; the plain sum of losses") {
  for (const MtpHeads heads : {MtpHeads::repeated, MtpHeads::parallel, MtpHeads::linear}) {
    for (const bool mixture : {false, true}) {
      Config config = mixture ? mixture_config(2) : dense_config(2);
      config.mtpx_heads = heads;
      const MtpLossOptions options{1, {}, LossDivisor::valid_rows, LossReduction::sum};
      const auto report = check(config, 3, random_batch(2, 4, 11), options, mixture ? 7 : 1);
      INFO("design " << static_cast<int>(heads) << ", worst of " << report.checked << ": " << report.where);
      CHECK(report.within(1e-9));
    }
  }
}

TEST_SUITE_END();
