// Whole models in training: which rows a depth reads and predicts, what is carried, how losses are divided,
// documents. As DeepSeek-V3's report (arXiv 2412.19437) and the code around its weights have it.

#include "support/model.hpp"
#include "support/reference.hpp"

using namespace mtpx;
using namespace mtpx::test;

TEST_SUITE_BEGIN("depths of whole models");

namespace {

using Model = Transformer<double, Device>;

/// Rows `rows` of x [.., width].
Numbers pick(const Numbers& x, const std::vector<Index>& rows, Index width) {
  Numbers out;
  for (const Index r : rows) out.insert(out.end(), x.begin() + r * width, x.begin() + (r + 1) * width);
  return out;
}

struct Pass {
  std::vector<Numbers> states;  ///< [k]: normed, [batch * (time - k), hidden]
  Numbers losses;               ///< [k]
  std::vector<Numbers> row_loss;
  double total = 0;
};

Pass forward(const Model& model, const Batch<Device>& batch, const MtpLossOptions& options = {}) {
  Tape tape;
  const auto out = model(tape, batch);
  const auto loss = mtp_loss(model, out, batch, options);
  Pass pass;
  for (const auto& normed : out.normed) pass.states.push_back(host(normed.value()));
  for (const auto& depth : loss.depths) {
    pass.losses.push_back(host(depth.loss.value())[0]);
    pass.row_loss.push_back(host(depth.row_loss));
  }
  pass.total = host(loss.total.value())[0];
  return pass;
}

/// All gradients of the total loss.
std::map<std::string, Numbers> backward(Model& model, const Batch<Device>& batch,
                                        const MtpLossOptions& options) {
  model.zero_grad();
  Tape tape;
  const auto out = model(tape, batch);
  tape.backward(mtp_loss(model, out, batch, options).total);
  return gradients(model);
}

/// -log P(target) from a hidden state, with whole logits.
double cross_entropy(const Model& model, const Numbers& state, std::int32_t target) {
  const Numbers logits = reference::linear(state, host(model.lm_head->weight.value()),
                                           model.config.hidden_size, model.config.vocab_size);
  double total = 0;
  for (const double z : logits) total += std::exp(z);
  return std::log(total) - nth(logits, target);
}

}  // namespace

TEST_CASE("loss index table: row r of depth k reads h[r], Emb(x[r+k]), predicts x[r+k+1]") {
  for (const Index depth : {1, 2, 3}) {
    for (const Index time : {1, 2, 3, 5}) {
      const Model model = random_model(mixture_config(depth), 1);
      const auto batch = random_batch(2, time, 11);
      const auto tokens = batch.tokens.to_host();
      const auto x = [&](Index b, Index i) { return nth(tokens, b * (time + 1) + i); };
      const Pass got = forward(model, batch, {0.6, {}, LossDivisor::all_positions});
      // Depth k has T - k rows; one with none is left out.
      REQUIRE(got.losses.size() == static_cast<std::size_t>(1 + std::min(depth, time - 1)));
      double total = 0;
      for (Index k = 0; k < static_cast<Index>(got.losses.size()); ++k) {
        const Numbers& states = nth(got.states, k);
        CHECK(static_cast<Index>(states.size()) == 2 * (time - k) * 8);
        double sum = 0;
        for (Index b = 0; b < 2; ++b) {
          for (Index r = 0; r <= time - 1 - k; ++r)
            sum += cross_entropy(model, pick(states, {b * (time - k) + r}, 8), x(b, r + k + 1));
        }
        const double loss = sum / static_cast<double>(2 * time);
        CHECK(nth(got.losses, k) == doctest::Approx(loss).epsilon(1e-12));
        total += k == 0 ? loss : 0.6 / static_cast<double>(depth) * loss;
        if (k == 0) continue;

        // The module on rows gathered by the table.
        Tape tape(Mode::inference);
        std::vector<Index> rows, ahead;
        for (Index b = 0; b < 2; ++b) {
          for (Index r = 0; r <= time - 1 - k; ++r) {
            rows.push_back(b * (time - k + 1) + r);
            ahead.push_back(x(b, r + k));
          }
        }
        const Shape shape{2, time - k, 8};
        Ids positions(device(), {2, time - k});
        fill_positions(device(), 2, time - k, 0, positions.data());
        const auto h = tape.constant(tensor<double>(shape, pick(nth(got.states, k - 1), rows, 8)));
        const auto e = tape.constant(tensor<double>(shape, pick(host(model.embed_tokens.value()), ahead, 8)));
        const auto out = nth(model.mtp, k - 1)(h, e, {}, {}, [&](const auto& block, const auto& in) {
          return block(in, [&](const auto& mla, const auto& normed) {
            return mla(normed, model.rope_table, positions, {});
          });
        });
        check_close(states, host(out.hidden.normed.value()), 1e-12, cat("states of depth ", k));
      }
      Tape tape;
      const auto again = model(tape, batch);
      for (const auto& balance : again.balance) total += host(balance.value())[0];
      CHECK(got.total == doctest::Approx(total).epsilon(1e-12));
    }
  }
}

TEST_CASE("a depth without a row, T <= k, has neither loss nor gradient") {
  Model model = random_model(mixture_config(3), 1);
  const auto grads = backward(model, random_batch(2, 2, 11), {});
  for (const auto& entry : grads) {
    const std::string& name = entry.first;
    const Numbers& g = entry.second;
    const bool runs = !name.starts_with("model.layers.4") && !name.starts_with("model.layers.5");
    CHECK_MESSAGE(g.empty() != runs, name);
    CHECK_MESSAGE(all_finite(g), name);
  }
}

TEST_CASE("a depth whose targets all lie in other documents: zero loss, zero gradient") {
  Config config = mixture_config(2);
  config.aux_loss_alpha = 0;
  Model model = random_model(config, 1);
  Batch<Device> batch = random_batch(2, 4, 11);
  batch.positions = tensor<std::int32_t>({2, 5}, {0, 1, 0, 1, 0, 0, 1, 0, 1, 0});  // of two tokens each
  const Pass got = forward(model, batch);
  CHECK(got.losses[0] > 0);
  CHECK(got.losses[1] == 0);
  CHECK(got.losses[2] == 0);
  CHECK(got.total == got.losses[0]);
  for (const auto& entry : backward(model, batch, {})) {
    const std::string& name = entry.first;
    const bool module = name.starts_with("model.layers.3") || name.starts_with("model.layers.4");
    for (const double value : entry.second)
      CHECK_MESSAGE((std::isfinite(value) && (!module || value == 0)), name);
  }
}

TEST_CASE("dividing by T instead of the valid rows scales depth k by (T - k) / T") {
  Config config = mixture_config(3);
  config.aux_loss_alpha = 0;
  Model model = random_model(config, 2);
  constexpr Index time = 8;
  const auto batch = random_batch(2, time, 11);
  const Pass valid = forward(model, batch, {1.0, {}, LossDivisor::valid_rows});
  const Pass all = forward(model, batch, {1.0, {}, LossDivisor::all_positions});
  for (Index k = 0; k <= 3; ++k) {
    const double ratio = static_cast<double>(time - k) / time;
    CHECK(std::abs(nth(all.losses, k) / nth(valid.losses, k) - ratio) <= 0x1p-52);
  }
  // Weights per depth turn one into the other: the same gradients.
  const auto want = backward(model, batch, {1.0, {}, LossDivisor::all_positions});
  const auto got = backward(model, batch, {1.0, {7.0 / 8, 6.0 / 8, 5.0 / 8}, LossDivisor::valid_rows});
  check_close(got, want, 1e-12);
}

TEST_CASE("carried before or after the norm: apart with random gains, equal with unit gains") {
  Config config = mixture_config(2);
  config.rms_norm_eps = 1e-14;  // what is left between them with unit gains
  const auto batch = random_batch(2, 6, 11);
  const auto states = [&](MtpHidden carried, const std::string& unit) {
    Config c = config;
    c.mtp_hidden = carried;
    Model model = random_model(c, 3);
    for_each_tensor(model, [&](const std::string& name, const auto& gain) {
      if (unit.find(cat(name, ' ')) == std::string::npos) return;
      gain.assign(Numbers(static_cast<std::size_t>(gain.size()), 1.0));
    });
    return forward(model, batch).states;
  };
  const auto apart = [&](const std::string& unit) {
    const auto post = states(MtpHidden::post_norm, unit);
    const auto pre = states(MtpHidden::pre_norm, unit);
    Numbers errors;
    for (std::size_t k = 0; k <= 2; ++k) errors.push_back(relative_error(pre[k], post[k]));
    return errors;
  };
  const Numbers random = apart("");
  CHECK(random[0] == 0);
  CHECK(random[1] > 1e-2);
  CHECK(random[2] > 1e-2);
  // The gain of the trunk's norm is what depth 1 sees, that of module 1 what depth 2 sees.
  const Numbers trunk = apart("model.norm.weight ");
  CHECK(trunk[1] < 1e-10);
  CHECK(trunk[2] > 1e-2);
  const Numbers unit = apart("model.norm.weight model.layers.3.shared_head.norm.weight ");
  CHECK(unit[1] < 1e-10);
  CHECK(unit[2] < 1e-10);
}

TEST_CASE("swapping the halves of eh_proj turns one order of concatenation into the other") {
  Config config = mixture_config(2);
  const auto batch = random_batch(2, 6, 11);
  Model embedding_first = random_model(config, 4);
  config.mtp_concat = MtpConcat::hidden_embedding;
  Model hidden_first = random_model(config, 4);
  const Pass want = forward(embedding_first, batch);
  CHECK(relative_error(forward(hidden_first, batch).states[1], want.states[1]) > 1e-2);
  for (const auto& module : hidden_first.mtp) {
    const auto& weight = module.input->eh_proj.weight.value();  // [hidden, 2 hidden]
    Numbers halves = host(weight);
    for (auto row = halves.begin(); row != halves.end(); row += 16) std::swap_ranges(row, row + 8, row + 8);
    weight.assign(halves);
  }
  const Pass got = forward(hidden_first, batch);
  // Exact but for the order of 16 additions.
  for (std::size_t k = 0; k <= 2; ++k) check_close(got.states[k], want.states[k], 1e-13, cat("depth ", k));
  CHECK(got.total == doctest::Approx(want.total).epsilon(1e-14));
}

TEST_CASE("packed documents, attention inside documents: the same as separate documents") {
  Config config = mixture_config(2);
  config.aux_loss_alpha = 0;  // a loss per sequence, which packing changes
  Model model = random_model(config, 5);
  const std::vector<Index> lengths{5, 2, 1, 6, 4};
  Ints tokens, places;
  for (const Index length : lengths) {
    for (Index i = 0; i < length; ++i) {
      tokens.push_back(random_ids({18}, 9, 0, 11).to_host()[tokens.size()]);
      places.push_back(static_cast<std::int32_t>(i));
    }
  }
  const Index time = static_cast<Index>(tokens.size()) - 1;
  const Batch<Device> packed{tensor<std::int32_t>({1, time + 1}, tokens),
                             tensor<std::int32_t>({1, time + 1}, places), true};
  const MtpLossOptions options{0.8, {}, LossDivisor::all_positions};
  const auto got = forward(model, packed, options);
  auto want_gradients = backward(model, packed, options);
  for (auto& [name, g] : want_gradients) {
    for (double& value : g) value *= static_cast<double>(time);
  }

  std::map<std::string, Numbers> sums;
  Index start = 0;
  for (const Index length : lengths) {
    if (length > 1) {
      const Batch<Device> alone{
          tensor<std::int32_t>({1, length}, {tokens.begin() + start, tokens.begin() + start + length}),
          {},
          false};
      const auto want = forward(model, alone, options);
      for (Index k = 0; k < std::min<Index>(3, length - 1); ++k) {
        for (Index r = 0; r < length - 1 - k; ++r) {  // the rows that have a target
          const std::string what = cat("document at ", start, ", depth ", k, ", row ", r);
          check_close(pick(nth(got.states, k), {start + r}, 8), pick(nth(want.states, k), {r}, 8), 1e-12,
                      what);
          check_close(pick(nth(got.row_loss, k), {start + r}, 1), pick(nth(want.row_loss, k), {r}, 1), 1e-12,
                      what);
        }
      }
      for (const auto& [name, g] : backward(model, alone, options)) {
        Numbers& sum = sums[name];
        sum.resize(want_gradients.at(name).size(), 0.0);
        for (std::size_t i = 0; i < g.size(); ++i) sum[i] += g[i] * static_cast<double>(length - 1);
      }
    }
    start += length;
  }
  check_close(sums, want_gradients, 1e-11);

  Batch<Device> open = packed;
  open.mask_documents = false;
  CHECK(relative_error(forward(model, open).states[0], got.states[0]) > 1e-3);
}

TEST_SUITE_END();
