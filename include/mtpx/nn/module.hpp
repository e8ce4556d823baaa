#pragma once
// What a module is: a struct with a static `members(self, visit)` of one line per member. No base class, no
// registration. Everything that needs a model's parameters walks it: the optimiser, initialisation, files.

#include <mtpx/autograd/var.hpp>
#include <mtpx/nn/optional.hpp>

#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace mtpx {

/// The weights of all experts in one tensor [E, out, in], one product's operand each. Files hold them apart,
/// as experts.<e>.<name>.weight.
template <typename T, typename D>
struct StackedWeight {
  Parameter<T, D> weight;  ///< [E, out, in]
  Index first = 0;         ///< the first expert's number, where other ranks have others
  Index all = 0;           ///< experts on all ranks; 0: these

  /// Whether other ranks have the rest.
  bool shared_out() const { return all > 0 && all != weight.shape()[0]; }
};

/// A tensor that belongs to a module but that no gradient moves, such as a router's bias.
template <typename T, typename D>
struct State {
  Tensor<T, D> value;  ///< saved under its name as a parameter is
};

namespace detail {

template <typename M>
struct IsParameter : std::false_type {};
template <typename T, typename D>
struct IsParameter<Parameter<T, D>> : std::true_type {};
template <typename M>
struct IsStacked : std::false_type {};
template <typename T, typename D>
struct IsStacked<StackedWeight<T, D>> : std::true_type {};
template <typename M>
struct IsState : std::false_type {};
template <typename T, typename D>
struct IsState<State<T, D>> : std::true_type {};
template <typename M>
struct IsVector : std::false_type {};
template <typename M>
struct IsVector<std::vector<M>> : std::true_type {};
template <typename M>
struct IsOptional : std::false_type {};
template <typename M>
struct IsOptional<std::optional<M>> : std::true_type {};
template <typename M>
struct IsOptional<Optional<M>> : std::true_type {};

[[gnu::noinline, gnu::cold]] inline std::string join(const std::string& prefix, std::string_view name) {
  std::string both;
  both.reserve(prefix.size() + 1 + name.size());
  both.append(prefix);
  if (!prefix.empty() && !name.empty()) both.push_back('.');
  both.append(name);
  return both;
}
[[gnu::noinline, gnu::cold]] inline std::string join(const std::string& prefix, std::size_t number) {
  char digits[24];
  std::snprintf(digits, sizeof digits, "%zu", number);
  return join(prefix, std::string_view(digits));
}

}  // namespace detail

/// One tensor below a module of type T: the pointer to what it is, the others are null. acc_t<T> is the type
/// of T's sums, which routers compute in.
template <typename T, typename D>
struct ModuleLeaf {
  std::string name;                                 ///< from the module on, joined by dots
  Parameter<T, D>* parameter = nullptr;             ///< a weight
  StackedWeight<T, D>* stacked = nullptr;           ///< experts
  Parameter<acc_t<T>, D>* sum_parameter = nullptr;  ///< a weight in the type of sums, where that is another
  State<acc_t<T>, D>* state = nullptr;              ///< what no gradient moves
};

template <typename Module, typename Visit>
void walk(Module& module, const std::string& prefix, const Visit& leaf);

namespace detail {
template <typename Module, typename Visit>
void walk_members(Module& self, const std::string& prefix, const Visit& leaf) {
  std::remove_const_t<Module>::members(
      self, [&](std::string_view name, auto& member) { walk(member, join(prefix, name), leaf); });
}

/// leaf(name, *member), which is const if Module is.
template <typename Module, typename T, typename D, typename Visit>
void visit_leaf(const std::string& prefix, const ModuleLeaf<T, D>& found, const Visit& leaf) {
  const std::string name = join(prefix, found.name);
  const auto give = [&]<typename M>(M& member) {
    leaf(name, static_cast<std::conditional_t<std::is_const_v<Module>, const M, M>&>(member));
  };
  if (found.parameter) give(*found.parameter);
  if (found.stacked) give(*found.stacked);
  if (found.state) give(*found.state);
  if constexpr (!std::is_same_v<T, acc_t<T>>) {
    if (found.sum_parameter) give(*found.sum_parameter);
  }
}
}  // namespace detail

/// Calls leaf(name, member) for every Parameter, StackedWeight and State below `module`, in the order of the
/// members. Names are joined by dots; a member visited under the empty name adds none, a vector adds indices.
///
/// A module of many parts may say leaves(), the list that list_leaves() makes: then its tree of members is
/// compiled once, and not once for each walk.
template <typename Module, typename Visit>
void walk(Module& module, const std::string& prefix, const Visit& leaf) {
  using M = std::remove_const_t<Module>;
  if constexpr (detail::IsParameter<M>::value || detail::IsStacked<M>::value || detail::IsState<M>::value) {
    leaf(prefix, module);
  } else if constexpr (requires { module.leaves(); }) {
    for (const auto& found : module.leaves()) detail::visit_leaf<Module>(prefix, found, leaf);
  } else if constexpr (detail::IsVector<M>::value) {
    for (std::size_t i = 0; i < module.size(); ++i) walk(module[i], detail::join(prefix, i), leaf);
  } else if constexpr (detail::IsOptional<M>::value) {
    if (module) walk(*module, prefix, leaf);
  } else {
    detail::walk_members(module, prefix, leaf);
  }
}

/// What leaves() of a module of type T is: all that its members name, each once, in their order.
template <typename T, typename D, typename Module>
std::vector<ModuleLeaf<T, D>> list_leaves(Module& module) {
  std::vector<ModuleLeaf<T, D>> all;
  detail::walk_members(module, "", [&]<typename M>(const std::string& name, M& member) {
    ModuleLeaf<T, D>& leaf = all.emplace_back(ModuleLeaf<T, D>{name});
    if constexpr (std::is_same_v<M, Parameter<T, D>>) {
      leaf.parameter = &member;
    } else if constexpr (detail::IsStacked<M>::value) {
      leaf.stacked = &member;
    } else if constexpr (detail::IsParameter<M>::value) {
      leaf.sum_parameter = &member;
    } else {
      leaf.state = &member;
    }
  });
  return all;
}

/// The leaves below a module of type T, whatever module: who takes it is compiled once for T and D, and not
/// for each module. It refers to the module's members.
template <typename T, typename D>
class Leaves {
 public:
  template <typename Module>
  requires(!std::is_same_v<std::remove_const_t<Module>, Leaves>) Leaves(Module& module) {
    if constexpr (requires { module.leaves(); }) {
      all_ = module.leaves();
    } else {
      all_ = list_leaves<T, D>(module);
    }
  }

  /// See walk().
  const std::vector<ModuleLeaf<T, D>>& leaves() const { return all_; }

 private:
  std::vector<ModuleLeaf<T, D>> all_;
};

/// Calls visit(name, parameter) for every trainable tensor, experts stacked.
template <typename Module, typename Visit>
void for_each_parameter(Module& module, const Visit& visit) {
  walk(module, "", [&](const std::string& name, auto& member) {
    using M = std::remove_cvref_t<decltype(member)>;
    if constexpr (detail::IsParameter<M>::value) visit(name, member);
    if constexpr (detail::IsStacked<M>::value) visit(detail::join(name, "weight"), member.weight);
  });
}

/// The device that a module computes on: what its device() says or, where it has none, that of its first
/// parameter. Throws Error for a module without any.
template <typename D, typename Module>
D device_of(const Module& module) {
  if constexpr (requires { module.device(); }) {
    return module.device();
  } else {
    std::optional<D> found;
    for_each_parameter(module, [&](const std::string&, const auto& parameter) {
      if (!found && parameter.defined()) found = parameter.device();
    });
    if (!found) throw Error("[device_of] the module has no parameter: its members() visits none");
    return *found;
  }
}

namespace detail {
/// experts.gate_proj -> experts.<e>.gate_proj.weight
[[gnu::cold]] inline std::string expert_name(const std::string& stacked, Index e) {
  const std::size_t dot = stacked.rfind('.');
  std::string one = join(std::string(stacked, 0, dot), static_cast<std::size_t>(e));
  return one.append(stacked, dot).append(".weight");
}

/// visit(name, pick(parameter)) for every parameter under its published name, experts one by one; for states
/// visit(name, value), or nothing where only gradients are asked for.
template <bool with_states, typename Module, typename Visit, typename Pick>
void visit_published(Module& module, const Visit& visit, const Pick& pick) {
  walk(module, "", [&](const std::string& name, auto& member) {
    using M = std::remove_cvref_t<decltype(member)>;
    if constexpr (IsParameter<M>::value) {
      visit(name, pick(member));
    } else if constexpr (IsState<M>::value) {
      if constexpr (with_states) visit(name, member.value);
    } else {  // experts.gate_proj [E, out, in] -> experts.<e>.gate_proj.weight [out, in]
      const auto stacked = pick(member.weight);
      const Shape shape = member.weight.shape();
      for (Index e = 0; e < shape[0]; ++e) {
        const auto one =
            stacked.defined() ? stacked.slice_front(e, e + 1).reshape({shape[1], shape[2]}) : stacked;
        visit(expert_name(name, member.first + e), one);
      }
    }
  });
}
}  // namespace detail

/// Calls visit(name, tensor) for every tensor of a model file under its published name, experts one by one.
template <typename Module, typename Visit>
void for_each_tensor(Module& module, const Visit& visit) {
  detail::visit_published<true>(module, visit, [](const auto& parameter) { return parameter.value(); });
}

/// The same for those alone that are not kept in 8 bits.
template <typename Module, typename Visit>
void for_each_tensor_of_numbers(Module& module, const Visit& visit) {
  detail::visit_published<true>(
      module,
      [&](const std::string& name, const auto& tensor) {
        if (tensor.defined()) visit(name, tensor);
      },
      [](const auto& parameter) {
        return parameter.int8() != nullptr ? std::remove_cvref_t<decltype(parameter.value())>()
                                           : parameter.value();
      });
}

/// Calls visit(name, weight, e) for every matrix that is kept in 8 bits, the e-th of an Int8Weight, under its
/// published name.
template <typename Module, typename Visit>
void for_each_int8(Module& module, const Visit& visit) {
  walk(module, "", [&](const std::string& name, auto& member) {
    using M = std::remove_cvref_t<decltype(member)>;
    if constexpr (detail::IsParameter<M>::value) {
      if (member.int8() != nullptr) visit(name, *member.int8(), Index{0});
    } else if constexpr (detail::IsStacked<M>::value) {
      if (member.weight.int8() == nullptr) return;
      for (Index e = 0; e < member.weight.int8()->count(); ++e)
        visit(detail::expert_name(name, member.first + e), *member.weight.int8(), e);
    }
  });
}

/// for_each_tensor() of the gradients of the parameters: undefined where there is none.
template <typename Module, typename Visit>
void for_each_gradient(Module& module, const Visit& visit) {
  detail::visit_published<false>(module, visit, [](const auto& parameter) { return parameter.grad(); });
}

}  // namespace mtpx
