#pragma once

#include <mtpx/model/draft_vocabulary.hpp>
#include <mtpx/model/slice.hpp>
#include <mtpx/mtp/depths.hpp>
#include <mtpx/nn/cached_rows.hpp>
#include <mtpx/nn/initialize.hpp>
#include <mtpx/nn/windows.hpp>

namespace mtpx {

/// Hidden states of one forward.
template <typename T, typename D>
struct Forward {
  std::vector<Var<T, D>>
      normed;  ///< [k]: [B, T - k, hidden], what the output head reads; k = 0: the main model
  BalanceLosses<T, D> balance;  ///< of the layers that have one, depths included
};

/// A DeepSeek-V3 model (arXiv 2412.19437, sec. 2) with what predicts the tokens after the next: its
/// sequential modules, or parallel heads on the trunk. See MtpDesign.
template <typename T, typename D>
struct Transformer {
  using value_type = T;   ///< of weights and activations
  using device_type = D;  ///< where they are

  Config config;                          ///< the sizes that it was built with
  MtpDesign design;                       ///< what its depths are
  ModelSlice slice;                       ///< what it has of that model; the members of the rest are empty
  Parameter<T, D> embed_tokens;           ///< [vocab, hidden], shared by all depths; tied: the head, too
  std::vector<Block<T, D>> layers;        ///< [num_hidden_layers]; of a slice, from its first one on
  RmsNorm<T, D> norm;                     ///< the final one, before the output head
  Optional<Linear<T, D>> lm_head;         ///< [vocab, hidden], shared by all depths; absent: tied
  std::vector<MtpModule<T, D>> mtp;       ///< one for each depth, or one for all
  RopeTable<acc_t<T>, D> rope_table;      ///< cos and sin up to max_position_embeddings
  bool activation_checkpointing = false;  ///< keep block inputs only and run blocks again in backward
  /// Depths train their own weights only: neither trunk nor embedding, norm and output head hear of them.
  bool detach_depths = false;

  /// Weights of NaN, drafts from all tokens; see initialize() and io/model_folder.hpp. Throws ConfigError
  /// listing all violations.
  Transformer(const D& device, const Config& c) : Transformer(device, c, c.design()) {}

  /// The same with depths of a design that the configuration cannot name, and no model folder can hold.
  Transformer(const D& device, const Config& c, const MtpDesign& facts)
      : Transformer(device, c, facts, ModelSlice::whole(c.num_hidden_layers)) {}

  /// A part of one, whose members and their names are those of the whole. Throws ConfigError for what is no
  /// part of it, too.
  [[gnu::cold]] Transformer(const D& device, const Config& c, const MtpDesign& facts, const ModelSlice& part,
                            const Int8Products<T, D>* products = nullptr)
      : config(c), design(facts), slice(part), int8_products_(products) {
    c.validate();
    if (c.int8_blocks && products == nullptr)
      throw ConfigError(
          "[model] int8_blocks: weights in 8 bits need int8_products<T, D> (mtpx/ops/int8.hpp), or "
          "load_model()");
    config.mtpx_draft_vocabulary = 0;  // until draft_from() says which
    if (design.own_layers < 0 || design.own_layers > c.num_hidden_layers) {
      throw ConfigError(cat("[model] own_layers = ", design.own_layers, ", num_hidden_layers = ",
                            c.num_hidden_layers, ": the next-token head has no more layers than there are"));
    }
    check_slice();
    const Shape table{c.vocab_size, c.hidden_size};
    if (slice.embedding) embed_tokens = Parameter<T, D>(device, table);
    for (Index layer = slice.begin; layer < slice.end; ++layer)
      layers.emplace_back(device, block_options(layer));
    if (slice.head) add_head(device, table);
    for (Index layer = 0; layer < c.num_layers(); ++layer) names_.push_back(cat("model.layers.", layer));
    rope_table = make_rope_table<acc_t<T>>(device, c.max_position_embeddings, c.qk_rope_head_dim,
                                           c.rope_theta, c.rope_scaling);
  }

  /// One whose matrices are kept in 8 bits where the configuration says int8_blocks.   products:
  /// int8_products<T, D>
  Transformer(const D& device, const Config& c, const Int8Products<T, D>& products)
      : Transformer(device, c, c.design(), ModelSlice::whole(c.num_hidden_layers), &products) {}

  /// Where its weights are.
  const D& device() const { return rope_table.cos.device(); }

  /// A parameter of the main model as depths use it: a constant where they are detached.
  template <typename P>
  auto for_depths(const P& parameter) const {
    Var<typename P::value_type, D, typename P::gradient_type> shared = parameter;
    return detach_depths ? decltype(shared)(parameter.value()) : shared;
  }

  /// The output head as depth k uses it (DeepSeek-V3 Eq. 23), [vocab, hidden]; 0: the main model. Tied, that
  /// is the embedding, whose gradient is then the sum of both uses: a backward adds to it in the order in
  /// which it runs, heads first, from the last depth to the main model, then what was looked up.
  Weight<T, D> head(Index k) const {
    const Parameter<T, D>& main = lm_head ? lm_head->weight : embed_tokens;
    if (k == 0) return main;
    const auto& own = mtp[design.module(k)].head;
    return own ? Weight<T, D>(own->weight) : for_depths(main);
  }

  /// The tokens that drafts are picked from, ascending; none: all. Training and scores know all.
  const std::vector<std::int32_t>& draft_ids() const { return draft_ids_; }
  /// Lets drafts be picked from these from now on; see check_draft_ids(), also for what it throws.
  void draft_from(std::vector<std::int32_t> ids) {
    check_draft_ids(ids, config.vocab_size);
    config.mtpx_draft_vocabulary = static_cast<Index>(ids.size());
    draft_ids_ = std::move(ids);
  }

  /// What makes the block of a layer: also for blocks of a drafter that is not one of the designs.
  BlockOptions block_options(Index layer) const {
    const Config& c = config;
    BlockOptions o;
    o.attention = {c.hidden_size,      c.num_attention_heads,
                   c.q_lora_rank,      c.kv_lora_rank,
                   c.qk_nope_head_dim, c.qk_rope_head_dim,
                   c.v_head_dim,       attention_scale(c.qk_head_dim(), c.rope_scaling),
                   int8_run()};
    o.intermediate = c.intermediate_size;
    o.eps = c.rms_norm_eps;
    if (c.is_moe(layer)) {
      o.moe = MoeOptions{c.hidden_size,
                         c.moe_intermediate_size,
                         c.n_shared_experts,
                         {c.n_routed_experts, c.num_experts_per_tok, c.n_group, c.topk_group,
                          c.norm_topk_prob, c.routed_scaling_factor, c.scoring_func},
                         c.aux_loss_alpha,
                         slice.expert_part,
                         slice.expert_parts,
                         int8_run()};
    }
    return o;
  }

  /// The depths, for one pass.
  MtpDepths<T, D> depths() const {
    return {design,
            mtp,
            {for_depths(embed_tokens), for_depths(norm.weight), norm.eps},
            detach_depths,
            std::span(names_).subspan(static_cast<std::size_t>(config.num_hidden_layers)),
            config.num_hidden_layers};
  }

  /// How blocks run over the windows of a batch.   received: of a slice that does not begin with the
  /// embedding, see Windows::received()
  Windows<T, D> windows(const Batch<D>& batch, std::vector<Var<T, D>> received = {}) const {
    return {batch, rope_table, activation_checkpointing, std::move(received)};
  }

  /// Hidden states of the main model and of depths 1 .. depth over whole windows, for training and scoring.
  /// Depth k has the T - k rows that have a target; a depth without rows is left out.
  ///
  /// depth: how many to run; -1: all
  Forward<T, D> operator()(Tape& tape, const Batch<D>& batch, Index depth = -1) const;

  /// Throws ShapeError for windows that it cannot take.
  void check(const Tape& tape, const Batch<D>& batch) const {
    require(
        batch.tokens.shape().rank() == 2 && batch.time() >= 1 &&
            batch.time() <= config.max_position_embeddings,
        "model",
        [&] {
          return cat("tokens are [B, T + 1] with T from 1 to max_position_embeddings = ",
                     config.max_position_embeddings);
        },
        {{"tokens", batch.tokens}}, tape);
  }

  /// The same whatever runs the blocks: of the main model and of depths 1 .. last.
  template <typename Way>
  Forward<T, D> forward(Tape& tape, Way& way, Index last) const {
    Forward<T, D> out;
    const Var<T, D> z = shared_state(tape, way, out.balance);
    const Hidden<T, D> h = main_state(z, way, out.balance);
    out.normed.push_back(h.normed);
    depths().run(tape, h.carried, 1, last, way, [&](Index, const auto& result) {
      out.normed.push_back(result.hidden.normed);
      if (result.balance.defined()) out.balance.push_back(result.balance);
    });
    return out;
  }

  /// The first half of a forward: the embedding and the layers that all heads share, [B, T, hidden]; of a
  /// slice without the head, all of its layers.
  template <typename Way>
  Var<T, D> shared_state(Tape& tape, Way& way, BalanceLosses<T, D>& balance) const {
    if (main_frozen_ && tape.recording()) {
      Tape quiet(Mode::inference);
      return tape.constant(shared_state(quiet, way, balance).value());
    }
    const Var<T, D> x = slice.embedding ? embedding<T, D>(tape, way.tokens(0), embed_tokens)
                                        : detail::received<T, D>(tape, way, 0);
    return run_layers(x, slice.begin, shared_end(), way, balance);
  }

  /// The second half for the main model: from the shared state z through the layers of its own and the norm.
  /// carried: what depth 1 reads
  template <typename Way>
  Hidden<T, D> main_state(const Var<T, D>& z, Way& way, BalanceLosses<T, D>& balance) const {
    Tape& tape = tape_of("main_state", z);
    if (main_frozen_ && tape.recording()) {
      Tape quiet(Mode::inference);
      const Hidden<T, D> h = main_state(quiet.constant(z.value()), way, balance);
      return {tape.constant(h.carried.value()), tape.constant(h.normed.value())};
    }
    const Var<T, D> x = run_layers(z, shared_end(), slice.end, way, balance);
    const Var<T, D> normed = norm(x);
    if (!design.chains) return {z, normed};
    return {config.mtp_hidden == MtpHidden::post_norm ? normed : x, normed};
  }

  /// What the output head reads for depth k (0: the main model) where depths do not chain, [B, T - k,
  /// hidden]: from the shared state alone, so depths can be run in any order.
  template <typename Way>
  Var<T, D> parallel_state(const Var<T, D>& z, Index k, Way& way, BalanceLosses<T, D>& balance) const {
    if (k == 0) return main_state(z, way, balance).normed;
    Var<T, D> normed;
    depths().run(tape_of("parallel_state", z), z, k, k, way, [&](Index, const auto& result) {
      normed = result.hidden.normed;
      if (result.balance.defined()) balance.push_back(result.balance);
    });
    return normed;
  }

  /// One decoding pass of the trunk over rows of one or several sequences.
  ///
  /// tokens: [1, N]   caches: one per layer, [layers]   returns [1, N, hidden] states; appends to the caches
  Hidden<T, D> decode(Tape& tape, const Tensor<std::int32_t, D>& tokens, const DecodeRows<D>& rows,
                      const std::vector<LatentCache<T, D>>& caches) const {
    CachedRows<T, D> way{tokens, rows, caches, 0, rope_table};
    BalanceLosses<T, D> none;
    const Var<T, D> z = shared_state(tape, way, none);
    return main_state(z, way, none);
  }

  /// One decoding pass of depth k (from 1).   h: [1, N, hidden], states that it reads (see MtpDepths::run)
  /// tokens: [1, N], k ahead, for depths that read or follow them
  Hidden<T, D> decode_mtp(Tape& tape, Index k, const Var<T, D>& h, const Tensor<std::int32_t, D>& tokens,
                          const DecodeRows<D>& rows, const LatentCache<T, D>& cache) const {
    CachedRows<T, D> way{tokens, rows, {&cache, 1}, config.num_hidden_layers + k - 1, rope_table};
    Hidden<T, D> out;
    depths().run(tape, h, k, k, way, [&](Index, const auto& result) { out = result.hidden; });
    return out;
  }

  /// Stops training of everything but the depths' own weights: to add drafting to a finished model, which
  /// stays as it is to the last bit.
  void freeze_main(bool frozen = true) {
    main_frozen_ = frozen;
    embed_tokens.freeze(frozen);
    for (auto& layer : layers)
      for_each_parameter(layer, [frozen](const std::string&, auto& p) { p.freeze(frozen); });
    norm.weight.freeze(frozen);
    if (lm_head) lm_head->weight.freeze(frozen);
  }
  /// See freeze_main().
  bool main_frozen() const { return main_frozen_; }

  /// Router biases of every mixture that trains, after an optimiser step (sec. 2.1.2); see Moe::update_bias.
  void update_bias(double speed, const double* scale = nullptr) {
    for_each_trained_moe(*this, [=](Moe<T, D>& moe) { moe.update_bias(speed, scale); });
  }
  /// Where the other experts are, of a slice that has not all: before its first pass.
  void share_experts(const std::shared_ptr<const RankedExperts<T, D>>& across) {
    for (auto& layer : layers) {
      if (layer.moe) layer.moe->across = across;
    }
    for (auto& module : mtp) {
      if (module.block && module.block->moe) module.block->moe->across = across;
    }
  }
  /// Calls visit(load) for what each of them counts with: see Moe::load.
  template <typename Visit>
  void for_each_load(const Visit& visit) const {
    for_each_trained_moe(*this, [&](const Moe<T, D>& moe) { visit(moe.load); });
  }

  /// Forgets the gradients of all parameters; AdamW does so at each step.
  void zero_grad() {
    for_each_parameter(*this, [](const std::string&, auto& parameter) { parameter.zero_grad(); });
  }

  /// Published names: depth k stands at layer num_hidden_layers + k - 1.
  static void members(auto& self, auto&& visit) {
    if (self.slice.embedding) visit("model.embed_tokens.weight", self.embed_tokens);
    const auto numbered = [&](Index first, auto& blocks) {
      for (std::size_t i = 0; i < blocks.size(); ++i)
        visit(self.names_[static_cast<std::size_t>(first) + i], blocks[i]);
    };
    numbered(self.slice.begin, self.layers);
    if (self.slice.head) visit("model.norm", self.norm);
    visit("lm_head", self.lm_head);
    numbered(self.config.num_hidden_layers, self.mtp);
  }

  /// See walk(), which hands out what is const for a const model.
  std::vector<ModuleLeaf<T, D>> leaves() const { return list_leaves<T, D>(const_cast<Transformer&>(*this)); }

 private:
  /// How its matrices are kept.
  Int8Run int8_run() const { return {config.int8_run(), int8_products_}; }

  const Int8Products<T, D>* int8_products_ = nullptr;
  bool main_frozen_ = false;
  std::vector<std::int32_t> draft_ids_;
  std::vector<std::string> names_;  // of layers, depths included

  template <typename Self, typename Visit>
  static void for_each_trained_moe(Self& self, const Visit& visit) {
    const auto one = [&](auto& block) {
      if (block.moe) visit(*block.moe);
    };
    if (!self.main_frozen_) {
      for (auto& layer : self.layers) one(layer);
    }
    for (auto& module : self.mtp) {
      if (module.block) one(*module.block);
    }
  }

  [[gnu::cold]] void check_slice() const {
    const Index layers_of_all = config.num_hidden_layers, own = design.own_layers;
    const auto rule = [&](bool holds, const std::string& why) {
      if (!holds)
        throw ConfigError(cat("[model] a slice of layers ", slice.begin, " to ", slice.end, " of ",
                              layers_of_all, ": ", why));
    };
    rule(0 <= slice.begin && slice.begin <= slice.end && slice.end <= layers_of_all, "there are no such");
    rule(!slice.embedding || slice.begin == 0, "the embedding stands before the first layer");
    rule(!slice.head || slice.end == layers_of_all, "the head stands behind the last layer");
    rule(!config.tie_word_embeddings || (slice.embedding && slice.head),
         "tie_word_embeddings = true: embedding and head are one matrix and stay together");
    rule(slice.expert_parts >= 1 && 0 <= slice.expert_part && slice.expert_part < slice.expert_parts &&
             (slice.expert_parts == 1 || config.n_routed_experts > 0) &&
             config.n_routed_experts % slice.expert_parts == 0,
         cat("n_routed_experts = ", config.n_routed_experts, " has no part ", slice.expert_part, " of ",
             slice.expert_parts, " equal ones"));
    rule(!slice.head || design.chains || config.num_nextn_predict_layers == 0 ||
             slice.begin <= layers_of_all - own,
         cat("depths that do not chain read the state before the last ", own, " of them"));
  }

  /// What ends a model: the norm, the output head and the depths.   table: the shape of an embedding
  [[gnu::cold]] void add_head(const D& device, const Shape& table) {
    const Config& c = config;
    norm = RmsNorm<T, D>(device, c.hidden_size, c.rms_norm_eps);
    if (!c.tie_word_embeddings) lm_head.emplace(device, c.hidden_size, c.vocab_size, int8_run());
    for (Index k = 0; k < design.modules(c.num_nextn_predict_layers); ++k)
      mtp.emplace_back(device, block_options(c.num_hidden_layers + k), design, c.mtp_concat, c.mtp_hidden);
    if (design.markov_rank > 0) {
      for (MtpModule<T, D>& module : mtp)
        module.markov.emplace(device, c.vocab_size, c.hidden_size, design.markov_rank);
    }
    for (const Index k : c.mtpx_own_embeddings) mtp[design.module(k)].embed_tokens.emplace(device, table);
    for (const Index k : c.mtpx_own_heads)
      mtp[design.module(k)].head.emplace(device, c.hidden_size, c.vocab_size, int8_run());
  }

  /// The layer behind the last one that all heads share, of those that there are here.
  Index shared_end() const {
    return slice.head ? std::max(slice.begin, config.num_hidden_layers - design.own_layers) : slice.end;
  }

  /// Layers begin .. end - 1.
  template <typename Way>
  Var<T, D> run_layers(Var<T, D> x, Index begin, Index end, Way& way, BalanceLosses<T, D>& balance) const {
    if constexpr (requires { way.run_all(begin, std::span<const Block<T, D>>(layers), x); }) {
      const auto some = std::span<const Block<T, D>>(layers).subspan(
          static_cast<std::size_t>(begin - slice.begin), static_cast<std::size_t>(end - begin));
      return way.run_all(begin, some, x);
    }
    for (Index layer = begin; layer < end; ++layer) {
      const Tape::Scope scope(*x.tape(), names_[static_cast<std::size_t>(layer)]);
      const auto result = way.run(layer, layers[static_cast<std::size_t>(layer - slice.begin)], x);
      if (result.balance.defined()) balance.push_back(result.balance);
      x = result.y;
    }
    return x;
  }
};

// Outside of the class, since inside it would be inline, and every user of mtpx::compiled would compile it
// again.
template <typename T, typename D>
Forward<T, D> Transformer<T, D>::operator()(Tape& tape, const Batch<D>& batch, Index depth) const {
  check(tape, batch);
  const Index all = config.num_nextn_predict_layers;
  Windows<T, D> way = windows(batch);
  return forward(tape, way, std::min({depth < 0 ? all : depth, all, batch.time() - 1}));
}

/// Fills a model's weights, as initialize() of any module does, with standard deviation
/// config.initializer_range (DeepSeek-V3 sec. 4.2).
template <typename T, typename D>
void initialize(Transformer<T, D>& model, std::uint64_t seed) {
  initialize(model, seed, model.config.initializer_range);
}

}  // namespace mtpx
