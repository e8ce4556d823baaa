#pragma once

#include <mtpx/autograd/checkpoint.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/model/config.hpp>
#include <mtpx/mtp/parallel.hpp>
#include <mtpx/mtp/sequential.hpp>
#include <mtpx/ops/embedding.hpp>

namespace mtpx {

/// Token windows on a device.
template <typename D>
struct Batch {
  Tensor<std::int32_t, D> tokens;     ///< [B, T + 1]: T inputs, and the label of the last
  Tensor<std::int32_t, D> documents;  ///< [B, T + 1]: position within the document; undefined: one document
  bool mask_documents = false;        ///< attention stays inside documents, too

  Index batch() const { return tokens.shape()[0]; }
  Index time() const { return tokens.shape()[1] - 1; }
};

/// Balance losses of the layers that have one, [1] each.
template <typename T, typename D>
using BalanceLosses = std::vector<Var<acc_t<T>, D>>;

/// Hidden states of one forward.
template <typename T, typename D>
struct Forward {
  std::vector<Var<T, D>>
      normed;  ///< [k]: [B, T - k, hidden], what the output head reads; k = 0: the main model
  BalanceLosses<T, D> balance;
};

/// A DeepSeek-V3 model (arXiv 2412.19437, sec. 2) with what predicts the tokens after the next: its
/// sequential modules, or parallel heads on the trunk. See MtpHeads.
template <typename T, typename D>
struct Transformer {
  Config config;
  Parameter<T, D> embed_tokens;  ///< [vocab, hidden], shared by all depths
  std::vector<Block<T, D>> layers;
  RmsNorm<T, D> norm;
  Linear<T, D> lm_head;                   ///< [vocab, hidden], shared by all depths
  std::vector<MtpModule<T, D>> mtp;       ///< [config.num_mtp_modules()], where depths are sequential
  std::vector<ParallelHead<T, D>> heads;  ///< [D], where they are not
  RopeTable<acc_t<T>, D> rope_table;
  bool activation_checkpointing = false;  ///< keep block inputs only and run blocks again in backward
  /// Depths train their own weights only: neither trunk nor embedding, norm and output head hear of them.
  bool detach_depths = false;

  /// Undefined weights; see initialize() and io/model_folder.hpp. Throws ConfigError listing all violations.
  Transformer(const D& device, const Config& c) : config(c) {
    c.validate();
    embed_tokens = Parameter<T, D>(device, {c.vocab_size, c.hidden_size});
    for (Index layer = 0; layer < c.num_hidden_layers; ++layer)
      layers.emplace_back(device, block_options(layer));
    norm = RmsNorm<T, D>(device, c.hidden_size, c.rms_norm_eps);
    lm_head = Linear<T, D>(device, c.hidden_size, c.vocab_size);
    for (Index k = 0; k < c.num_mtp_modules(); ++k) {
      const BlockOptions options = block_options(c.num_hidden_layers + k);
      if (c.sequential()) {
        mtp.emplace_back(device, options, c.mtp_concat, c.mtp_hidden);
      } else {
        heads.emplace_back(device, options, c.mtpx_heads);
      }
    }
    rope_table = make_rope_table<acc_t<T>>(device, c.max_position_embeddings, c.qk_rope_head_dim,
                                           c.rope_theta, c.rope_scaling);
  }

  const D& device() const { return embed_tokens.device(); }

  /// A parameter of the main model as depths use it: a constant where they are detached.
  template <typename P>
  auto for_depths(const P& parameter) const {
    Var<typename P::value_type, D, typename P::gradient_type> shared = parameter;
    return detach_depths ? decltype(shared)(parameter.value()) : shared;
  }

  /// Module of depth k, from 1.
  const MtpModule<T, D>& module(Index k) const {
    return mtp[config.mtpx_heads == MtpHeads::repeated ? 0 : static_cast<std::size_t>(k - 1)];
  }

  /// Hidden states of the main model and of depths 1 .. depth over whole windows, for training and scoring.
  /// Depth k has the T - k rows that have a target; a depth without rows is left out.
  ///
  /// depth: how many to run; -1: all
  Forward<T, D> operator()(Tape& tape, const Batch<D>& batch, Index depth = -1) const {
    const Index time = batch.time();
    require(
        batch.tokens.shape().rank() == 2 && time >= 1 && time <= config.max_position_embeddings, "model",
        [&] {
          return cat("tokens are [B, T + 1] with T from 1 to max_position_embeddings = ",
                     config.max_position_embeddings);
        },
        {{"tokens", batch.tokens.shape()}}, tape);
    Forward<T, D> out;
    const Index all = config.num_nextn_predict_layers;
    const Index last = std::min({depth < 0 ? all : depth, all, time - 1});
    const Var<T, D> z = shared_state(tape, batch, out.balance);
    if (!config.sequential()) {
      for (Index k = 0; k <= last; ++k) out.normed.push_back(parallel_state(z, k, batch, out.balance));
      return out;
    }
    Hidden<T, D> h = finish(z, z);
    if (main_frozen_) h = {tape.constant(h.carried.value()), tape.constant(h.normed.value())};
    out.normed.push_back(h.normed);
    for (Index k = 1; k <= last; ++k) {
      const Tape::Scope scope(tape, cat("model.layers.", config.num_hidden_layers + k - 1));
      const Index rows = time - k;
      const auto tokens = batch.tokens.narrow_last(k, rows);
      const Var<T, D> e = embedding<T, D>(tape, tokens, for_depths(embed_tokens));
      const Var<T, D> from = k == 1 && detach_depths ? tape.constant(h.carried.value()) : h.carried;
      const auto result = module(k)(take_front(from, rows), e, attend_windows(batch, rows));
      h = result.hidden;
      out.normed.push_back(h.normed);
      if (result.balance.defined()) out.balance.push_back(result.balance);
    }
    return out;
  }

  /// The first half of a forward: the state that all heads read, [B, T, hidden]. With parallel heads it is
  /// the input of the last layer, which is the next-token head's own; otherwise the output.
  Var<T, D> shared_state(Tape& tape, const Batch<D>& batch, BalanceLosses<T, D>& balance) const {
    if (main_frozen_ && tape.recording()) {
      Tape quiet(Mode::inference);
      return tape.constant(shared_state(quiet, batch, balance).value());
    }
    Var<T, D> x = embedding<T, D>(tape, batch.tokens.narrow_last(0, batch.time()), embed_tokens);
    const auto run = attend_windows(batch, batch.time());
    for (Index layer = 0; layer < shared_layers(); ++layer) x = run_layer(tape, layer, x, run, balance);
    return x;
  }

  /// The second half where heads are parallel: what the output head reads for depth k, [B, T - k, hidden];
  /// k = 0 is the next-token head. Depths do not need each other.
  Var<T, D> parallel_state(const Var<T, D>& z, Index k, const Batch<D>& batch,
                           BalanceLosses<T, D>& balance) const {
    Tape& tape = tape_of("parallel_state", z);
    const Index rows = batch.time() - k;
    const auto run = attend_windows(batch, rows);
    if (k == 0) {
      if (main_frozen_ && tape.recording()) {
        Tape quiet(Mode::inference);
        return tape.constant(parallel_state(quiet.constant(z.value()), 0, batch, balance).value());
      }
      Var<T, D> x = z;
      for (Index layer = shared_layers(); layer < config.num_hidden_layers; ++layer)
        x = run_layer(tape, layer, x, run, balance);
      return norm(x);
    }
    const Tape::Scope scope(tape, cat("model.layers.", config.num_hidden_layers + k - 1));
    const Var<T, D> from = detach_depths ? tape.constant(z.value()) : z;
    const auto out = heads[static_cast<std::size_t>(k - 1)](take_front(from, rows), run);
    if (out.balance.defined()) balance.push_back(out.balance);
    return rms_norm<T, D>(out.y, for_depths(norm.weight), norm.eps);
  }

  /// One decoding pass of the trunk over rows of one or several sequences.
  ///
  /// tokens: [1, N]   caches: one per layer, [layers]   returns [1, N, hidden] states; appends to the caches
  Hidden<T, D> decode(Tape& tape, const Tensor<std::int32_t, D>& tokens, const DecodeRows<D>& rows,
                      const std::vector<LatentCache<T, D>>& caches) const {
    Var<T, D> x = embedding<T, D>(tape, tokens, embed_tokens), shared = x;
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      if (static_cast<Index>(layer) == shared_layers()) shared = x;
      x = layers[layer].decode(x, rope_table, rows, caches[layer]);
    }
    return finish(x, shared_layers() == config.num_hidden_layers ? x : shared);
  }

  /// One decoding pass of depth k (from 1).   h: [1, N, hidden], carried states of the depth before; where
  /// heads are parallel, of the trunk   tokens: [1, N], k ahead, which parallel heads do not read
  Hidden<T, D> decode_mtp(Tape& tape, Index k, const Var<T, D>& h, const Tensor<std::int32_t, D>& tokens,
                          const DecodeRows<D>& rows, const LatentCache<T, D>& cache) const {
    const auto run = [&](const Block<T, D>& block, const Var<T, D>& x) {
      return typename Block<T, D>::Output{block.decode(x, rope_table, rows, cache), {}};
    };
    if (config.sequential()) return module(k)(h, embedding<T, D>(tape, tokens, embed_tokens), run).hidden;
    return {{}, norm(heads[static_cast<std::size_t>(k - 1)](h, run).y)};
  }

  /// Stops training of everything but the depths' own weights: to add drafting to a finished model, which
  /// stays as it is to the last bit.
  void freeze_main(bool frozen = true) {
    main_frozen_ = frozen;
    embed_tokens.freeze(frozen);
    for (auto& layer : layers)
      for_each_parameter(layer, [frozen](const std::string&, auto& p) { p.freeze(frozen); });
    norm.weight.freeze(frozen);
    lm_head.weight.freeze(frozen);
  }
  bool main_frozen() const { return main_frozen_; }

  /// Router biases of every mixture that trains, after an optimiser step (sec. 2.1.2); see Moe::update_bias.
  void update_bias(double speed, const double* scale = nullptr) {
    const auto one = [=](Block<T, D>& block) {
      if (block.moe) block.moe->update_bias(speed, scale);
    };
    if (!main_frozen_) {
      for (auto& layer : layers) one(layer);
    }
    for (auto& module : mtp) one(module.block);
    for (auto& head : heads) {
      if (head.block) one(*head.block);
    }
  }

  void zero_grad() {
    for_each_parameter(*this, [](const std::string&, auto& parameter) { parameter.zero_grad(); });
  }

  /// Published names: depth k stands at layer num_hidden_layers + k - 1.
  static void members(auto& self, auto&& visit) {
    visit("model.embed_tokens.weight", self.embed_tokens);
    visit("model.layers", self.layers);
    visit("model.norm", self.norm);
    visit("lm_head", self.lm_head);
    const auto depths = [&](auto& all) {
      for (std::size_t k = 0; k < all.size(); ++k)
        visit(cat("model.layers.", self.layers.size() + k), all[k]);
    };
    depths(self.mtp);
    depths(self.heads);
  }

 private:
  bool main_frozen_ = false;

  BlockOptions block_options(Index layer) const {
    const Config& c = config;
    BlockOptions o;
    o.attention = {c.hidden_size,      c.num_attention_heads,
                   c.q_lora_rank,      c.kv_lora_rank,
                   c.qk_nope_head_dim, c.qk_rope_head_dim,
                   c.v_head_dim,       attention_scale(c.qk_head_dim(), c.rope_scaling)};
    o.intermediate = c.intermediate_size;
    o.eps = c.rms_norm_eps;
    if (c.is_moe(layer)) {
      o.moe = MoeOptions{c.hidden_size,
                         c.moe_intermediate_size,
                         c.n_shared_experts,
                         {c.n_routed_experts, c.num_experts_per_tok, c.n_group, c.topk_group,
                          c.norm_topk_prob, c.routed_scaling_factor},
                         c.aux_loss_alpha};
    }
    return o;
  }

  Index shared_layers() const {
    return config.num_hidden_layers - (config.mtpx_heads == MtpHeads::parallel ? 1 : 0);
  }

  /// x: the state after all layers   shared: the one that parallel heads read
  Hidden<T, D> finish(const Var<T, D>& x, const Var<T, D>& shared) const {
    const Var<T, D> normed = norm(x);
    if (!config.sequential()) return {shared, normed};
    return {config.mtp_hidden == MtpHidden::post_norm ? normed : x, normed};
  }

  template <typename Run>
  Var<T, D> run_layer(Tape& tape, Index layer, const Var<T, D>& x, const Run& run,
                      BalanceLosses<T, D>& balance) const {
    const Tape::Scope scope(tape, cat("model.layers.", layer));
    const auto result = run(layers[static_cast<std::size_t>(layer)], x);
    if (result.balance.defined()) balance.push_back(result.balance);
    return result.y;
  }

  /// Runs a block over the first `time` positions of whole windows.
  auto attend_windows(const Batch<D>& batch, Index time) const {
    const D& d = device();
    Tensor<std::int32_t, D> positions(d, {batch.batch(), time});
    fill_positions(d, batch.batch(), time, 0, positions.data());
    Tensor<std::int32_t, D> window;
    if (batch.mask_documents && batch.documents.defined()) {
      window = Tensor<std::int32_t, D>(d, {batch.batch(), time});
      const auto documents = batch.documents.narrow_last(0, time);
      window_positions(d, documents.rows(), documents.data(), window.data());
      positions = window;  // rotations count from the document's start; scores depend on differences only
    }
    return [this, positions, window](const Block<T, D>& block, const Var<T, D>& x) ->
           typename Block<T, D>::Output {
             const auto whole = [this, &block, positions, window](const Var<T, D>& in) {
               return block(in, [&](const Mla<T, D>& mla, const Var<T, D>& normed) {
                 return mla(normed, rope_table, positions, window);
               });
             };
             if (!activation_checkpointing || !x.tape()->recording()) return whole(x);
             if (block.moe && block.moe->options.balance_alpha > 0) {
               auto [y, balance] = checkpoint(x, [whole](const Var<T, D>& in) {
                 auto out = whole(in);
                 // Undefined in the first run of a tape without statistics: a zero of its shape stands in.
                 if (!out.balance.defined())
                   out.balance = in.tape()->constant(Tensor<acc_t<T>, D>::zeros(in.device(), {1}));
                 return std::tuple(out.y, out.balance);
               });
               return {y, balance};
             }
             return {checkpoint(x, [whole](const Var<T, D>& in) { return whole(in).y; }), {}};
           };
  }
};

/// Fills a model's weights: normal with standard deviation config.initializer_range (DeepSeek-V3 sec. 4.2),
/// norm gains 1, router biases 0. A tensor's numbers depend on the seed and its published name alone: not on
/// the device, the depth or the order, and on the type only by rounding. The device draws them itself.
template <typename T, typename D>
void initialize(Transformer<T, D>& model, std::uint64_t seed) {
  if constexpr (!requires { requires D::no_memory; }) {
    for_each_tensor(model, [&](const std::string& name, const auto& tensor) {
      using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
      const D& device = tensor.device();
      if (tensor.shape().rank() == 1) {
        fill_value(device, tensor.size(), N(name.ends_with("bias") ? 0.0F : 1.0F), tensor.data());
      } else {
        std::uint64_t stream = 14695981039346656037ULL;  // FNV-1a of the name
        for (const char c : name) stream = (stream ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
        draw_normals(device, tensor.size(), seed, stream, model.config.initializer_range, tensor.data());
      }
    });
  }
}

}  // namespace mtpx
