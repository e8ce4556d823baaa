#pragma once
// The tensors of all stages of a pipeline, shown to one.

#include <mtpx/comm/group.hpp>
#include <mtpx/core/bf16.hpp>
#include <mtpx/core/tensor.hpp>
#include <mtpx/model/transformer.hpp>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

/// What is said of a tensor before its numbers come: kind, rank, extents, the name's length and its bytes.
class TensorHeader {
 public:
  static constexpr Index size = 256;  // of 32 bits
  enum Kind : std::int32_t { end, number, sum };

  Kind kind = end;
  Shape shape;
  std::string name;

  std::vector<std::int32_t> numbers() const {
    std::vector<std::int32_t> all{kind, static_cast<std::int32_t>(shape.rank())};
    for (int axis = 0; axis < shape.rank(); ++axis) all.push_back(static_cast<std::int32_t>(shape[axis]));
    all.resize(8);
    all.push_back(static_cast<std::int32_t>(name.size()));
    for (const char letter : name) all.push_back(static_cast<unsigned char>(letter));
    if (all.size() > static_cast<std::size_t>(size)) throw Error(cat("[stages] a name is too long: ", name));
    all.resize(static_cast<std::size_t>(size));
    return all;
  }
  static TensorHeader of(const std::vector<std::int32_t>& all) {
    TensorHeader header;
    header.kind = static_cast<Kind>(all[0]);
    for (std::int32_t axis = 0; axis < all[1]; ++axis)
      header.shape = header.shape.with_last_axis(all[2 + static_cast<std::size_t>(axis)]);
    for (std::int32_t i = 0; i < all[8]; ++i)
      header.name += static_cast<char>(all[9 + static_cast<std::size_t>(i)]);
    return header;
  }
};

}  // namespace detail

/// Shows stage 0 the tensors of all stages, those of stage 0 first: visit(name, tensor), each tensor in
/// memory that is its own for the call. Every rank of `stages` makes the call, which waits for the tensors
/// before it.
///
/// each(visit): shows what this stage has, dense tensors of type T or acc_t<T>; stage 0's may have others,
/// too
template <typename T, typename D, typename Each, typename Visit>
void across_stages(const Group<D>& stages, const Each& each, const Visit& visit) {
  using detail::TensorHeader;
  using A = acc_t<T>;
  const D& device = stages.device();
  const auto say = [&](const TensorHeader& header) {
    const auto said = Tensor<std::int32_t, D>::from(device, {TensorHeader::size}, header.numbers());
    const Transfer one = Transfer::send(0, said.data(), said.bytes());
    stages.send_receive({&one, 1});
  };
  if (stages.rank() > 0) {
    each([&]<typename N>(const std::string& name, const Tensor<N, D>& tensor) {
      constexpr bool known = std::is_same_v<N, T> || std::is_same_v<N, A>;
      if (!known) throw Error(cat("[stages] ", name, ": only stage 0 shows other types of numbers"));
      require(tensor.contiguous(), "stages", "what travels is dense", {{"tensor", tensor}});
      say({std::is_same_v<N, T> ? TensorHeader::number : TensorHeader::sum, tensor.shape(), name});
      const Transfer one = Transfer::send(0, tensor.data(), tensor.bytes());
      stages.send_receive({&one, 1});
    });
    return say({});
  }
  each(visit);
  for (int stage = 1; stage < stages.size(); ++stage) {
    for (;;) {
      const Tensor<std::int32_t, D> said(device, {TensorHeader::size});
      const Transfer one = Transfer::receive(stage, said.data(), said.bytes());
      stages.send_receive({&one, 1});
      const TensorHeader header = TensorHeader::of(said.to_host());
      if (header.kind == TensorHeader::end) break;
      const auto show = [&]<typename N>(N) {
        const Tensor<N, D> tensor(device, header.shape);
        const Transfer numbers = Transfer::receive(stage, tensor.data(), tensor.bytes());
        stages.send_receive({&numbers, 1});
        visit(header.name, tensor);
      };
      if (header.kind == TensorHeader::number) {
        show(T());
      } else {
        show(A());
      }
    }
  }
}

/// Shows rank 0 the experts of all ranks that have shared them out, and its other tensors, in the order and
/// by the names of one rank that has all; visit() as across_stages() takes it. Of the others it shows
/// nothing. Every rank of `ranks` makes the call.
///
/// each(visit): shows what this rank has, dense tensors; called once on every rank, so that it may be
/// collective   parts: into which experts are cut; 1: they are not
template <typename D, typename Each, typename Visit>
void across_experts(const Group<D>& ranks, Index experts, Index parts, const Each& each, const Visit& visit) {
  const Index own = experts / parts;
  const auto nothing = [](const std::string&, const auto&) {};
  if (parts == 1) return ranks.rank() == 0 ? each(visit) : each(nothing);
  const auto show = [&]<typename N>(const std::string& name, const Tensor<N, D>& tensor) {
    constexpr std::string_view word = ".experts.";
    const std::size_t at = name.find(word), number = at + word.size();
    if (ranks.rank() != 0) {
      if (at == std::string::npos) return;
      const Transfer one = Transfer::send(0, tensor.data(), tensor.bytes());
      return ranks.send_receive({&one, 1});
    }
    visit(name, tensor);
    if (at == std::string::npos) return;
    const std::size_t end = name.find('.', number);
    if (name.substr(number, end - number) != std::to_string(own - 1)) return;
    for (Index e = own; e < experts; ++e) {
      const Tensor<N, D> other(tensor.device(), tensor.shape());
      const Transfer one = Transfer::receive(static_cast<int>(e / own), other.data(), other.bytes());
      ranks.send_receive({&one, 1});
      visit(name.substr(0, number) + std::to_string(e) + name.substr(end), other);
    }
  };
  each([&](const std::string& name, const auto& tensor) {
    if constexpr (requires { show(name, tensor); }) return show(name, tensor);
    if (ranks.rank() == 0) visit(name, tensor);  // what stands elsewhere is no expert
  });
}

namespace detail {
/// The tensors of a model's file, and the experts' loads of the latest step, which are no part of it.
template <typename T, typename D, typename Visit>
void for_each_shown(const Transformer<T, D>& model, const Visit& visit) {
  for_each_tensor(model, visit);
  const auto load = [&](Index layer, const Block<T, D>& block) {
    if (block.moe) visit(cat("load of layer ", layer), block.moe->last_load);
  };
  for (std::size_t i = 0; i < model.layers.size(); ++i)
    load(model.slice.begin + static_cast<Index>(i), model.layers[i]);
  for (std::size_t k = 0; k < model.mtp.size(); ++k) {
    const Index layer = model.config.num_hidden_layers + static_cast<Index>(k);
    if (model.mtp[k].block) load(layer, *model.mtp[k].block);
  }
}

/// Copies what both have.
template <typename T, typename D>
class NamedTensors {
 public:
  explicit NamedTensors(const Transformer<T, D>& to) : device_(to.device()) {
    for_each_shown(to, [&](const std::string& name, const auto& tensor) {
      places_[name] = {tensor.data(), tensor.bytes()};
    });
  }
  template <typename N>
  void assign(const std::string& name, const Tensor<N, D>& from) const {
    const auto found = places_.find(name);
    if (found == places_.end()) return;
    require(found->second.second == from.bytes(), "stages", "the same tensor has one size", {{"from", from}});
    copy_on_device(device_, found->second.first, from.data(), from.bytes());
  }

 private:
  D device_;
  std::map<std::string, std::pair<void*, std::size_t>> places_;
};
}  // namespace detail

/// The whole model on stage 0 of the first copy, its numbers from all stages and from all `copies` that share
/// its experts out; nothing on the others. Every rank makes the call; where experts are not shared out, those
/// of the first copy.
template <typename T, typename D>
std::optional<Transformer<T, D>> collect_model(const Transformer<T, D>& part, const Group<D>& stages,
                                               const Group<D>& copies) {
  std::optional<Transformer<T, D>> whole;
  std::optional<detail::NamedTensors<T, D>> places;
  const auto each = [&](const auto& show) {
    across_experts(
        copies, part.config.n_routed_experts, part.slice.expert_parts,
        [&](const auto& visit) { detail::for_each_shown(part, visit); }, show);
  };
  if (copies.rank() != 0) {
    each([](const std::string&, const auto&) {});
    return whole;
  }
  if (stages.rank() == 0) {
    whole.emplace(part.device(), part.config, part.design);
    if (!part.draft_ids().empty()) whole->draft_from(part.draft_ids());
    whole->config = part.config;
    places.emplace(*whole);
  }
  across_stages<T>(stages, each,
                   [&](const std::string& name, const auto& tensor) { places->assign(name, tensor); });
  return whole;
}

/// The same where experts are not shared out.
template <typename T, typename D>
std::optional<Transformer<T, D>> collect_model(const Transformer<T, D>& part, const Group<D>& stages) {
  return collect_model(part, stages, Group<D>(part.device()));
}

/// A slice of a whole model, with its numbers.
template <typename T, typename D>
Transformer<T, D> slice_of(const Transformer<T, D>& whole, const ModelSlice& slice) {
  Transformer<T, D> part(whole.device(), whole.config, whole.design, slice);
  if (!whole.draft_ids().empty()) part.draft_from(whole.draft_ids());
  part.config = whole.config;
  const detail::NamedTensors<T, D> places(part);
  detail::for_each_shown(whole,
                         [&](const std::string& name, const auto& tensor) { places.assign(name, tensor); });
  return part;
}

}  // namespace mtpx
