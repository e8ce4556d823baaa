#pragma once
// Ops, modules, training and decoding, as the optional libraries mtpx::compiled and mtpx::reference hold them
// once. Their users, who have MTPX_COMPILED defined, see here that others compile these: they then compile
// calls instead of whole models. Definitions are the same either way. (The kernels' list is
// kernels/list.hpp.)
//
// HOW is `extern`, or nothing where they are made (instances/); T is a model's type, D its device.

#include <mtpx/core/cpu.hpp>
#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/model/loss.hpp>
#include <mtpx/model/transformer.hpp>
#include <mtpx/train/adamw.hpp>
#include <mtpx/train/batches.hpp>
#include <mtpx/train/trainer.hpp>
#ifdef MTPX_CUDA
#include <mtpx/core/cuda.hpp>
#endif
#ifdef MTPX_COMPILED_REFERENCE
#include <mtpx/core/reference.hpp>
#endif

/// A function template by its name: its signature is taken from its definition.
#define MTPX_INSTANCE_OF(HOW, ...) HOW template decltype(__VA_ARGS__) __VA_ARGS__;

/// Ops on sums, which are float for bf16 and for float: A is the accumulation type.
#define MTPX_SUMS(HOW, A, D)                \
  MTPX_INSTANCE_OF(HOW, weighted_sum<A, D>) \
  MTPX_INSTANCE_OF(HOW, sigmoid<A, D>)      \
  MTPX_INSTANCE_OF(HOW, route<A, D>)        \
  MTPX_INSTANCE_OF(HOW, plan_experts<A, D>) \
  MTPX_INSTANCE_OF(HOW, update_bias<A, D>)  \
  MTPX_INSTANCE_OF(HOW, balance_loss<A, D>)

/// What scores a text: tensors, the other ops, modules, the model and its loss, forward and backward.
#define MTPX_MODEL(HOW, T, D)                                                                            \
  HOW template class Tensor<T, D>;                                                                       \
  HOW template class Var<T, D>;                                                                          \
  HOW template class Parameter<T, D>;                                                                    \
  MTPX_INSTANCE_OF(HOW, add<T, D>)                                                                       \
  MTPX_INSTANCE_OF(HOW, add_rms_norm<T, D>)                                                              \
  MTPX_INSTANCE_OF(HOW, attention<T, D>)                                                                 \
  MTPX_INSTANCE_OF(HOW, bias<T, D>)                                                                      \
  MTPX_INSTANCE_OF(HOW, concat<T, D>)                                                                    \
  MTPX_INSTANCE_OF(HOW, embedding<T, D>)                                                                 \
  MTPX_INSTANCE_OF(HOW, experts<T, D>)                                                                   \
  MTPX_INSTANCE_OF(HOW, linear<T, T, D>)                                                                 \
  MTPX_INSTANCE_OF(HOW, linear_cross_entropy<T, D>)                                                      \
  MTPX_INSTANCE_OF(HOW, linear_distillation<T, D>)                                                       \
  MTPX_INSTANCE_OF(HOW, narrow<T, D>)                                                                    \
  MTPX_INSTANCE_OF(HOW, reshape<T, D>)                                                                   \
  MTPX_INSTANCE_OF(HOW, rms_norm<T, D>)                                                                  \
  MTPX_INSTANCE_OF(HOW, rope<T, D>)                                                                      \
  MTPX_INSTANCE_OF(HOW, swiglu<T, D>)                                                                    \
  MTPX_INSTANCE_OF(HOW, take_front<T, D>)                                                                \
  HOW template struct Linear<T, D>;                                                                      \
  HOW template struct RmsNorm<T, D>;                                                                     \
  HOW template struct SwiGlu<T, D>;                                                                      \
  HOW template struct Mla<T, D>;                                                                         \
  HOW template struct Moe<T, D>;                                                                         \
  HOW template struct Block<T, D>;                                                                       \
  HOW template struct MtpModule<T, D>;                                                                   \
  HOW template struct MtpDepths<T, D>;                                                                   \
  HOW template struct Transformer<T, D>;                                                                 \
  HOW template Hidden<T, D> Transformer<T, D>::main_state(const Var<T, D>&, CachedRows<T, D>&,           \
                                                          BalanceLosses<T, D>&) const;                   \
  HOW template Var<T, D> Transformer<T, D>::shared_state(Tape&, CachedRows<T, D>&, BalanceLosses<T, D>&) \
      const;                                                                                             \
  MTPX_INSTANCE_OF(HOW, mtp_loss<T, D>)                                                                  \
  MTPX_INSTANCE_OF(HOW, mtp_loss<T, D, TaughtLossOptions>)                                               \
  HOW template class StagePass<T, D>;                                                                    \
  MTPX_INSTANCE_OF(HOW, mtp_backward<T, D>)                                                              \
  MTPX_INSTANCE_OF(HOW, mtp_backward<T, D, TaughtLossOptions>)                                           \
  MTPX_INSTANCE_OF(HOW, evaluate<T, D, ValidationWindows>)

/// What trains it, and writes with it.
#define MTPX_TRAINED_MODEL(HOW, T, D)                                                                   \
  MTPX_MODEL(HOW, T, D)                                                                                 \
  MTPX_INSTANCE_OF(HOW, initialize<T, D>)                                                               \
  MTPX_INSTANCE_OF(HOW, latent_attention<T, D>)                                                         \
  HOW template class AdamW<T, D>;                                                                       \
  HOW template void AdamW<T, D>::step(Transformer<T, D>&, const GradientClip<D>&, double);              \
  HOW template void AdamW<T, D>::step(Transformer<T, D>&, double, double);                              \
  HOW template GradientClip<D> AdamW<T, D>::clip(Transformer<T, D>&, double, const Tensor<double, D>&,  \
                                                 const Tensor<acc_t<T>, D>&);                           \
  HOW template class Shards<T, D>;                                                                      \
  HOW template GradientClip<D> detail::clip_norm(const D&, Transformer<T, D>&, double,                  \
                                                 const Tensor<double, D>&, const Tensor<acc_t<T>, D>&); \
  HOW template class GradientSums<T, D>;                                                                \
  HOW template void GradientSums<T, D>::reserve(Transformer<T, D>&, Index);                             \
  HOW template void GradientSums<T, D>::add(Transformer<T, D>&);                                        \
  HOW template void GradientSums<T, D>::finish(Transformer<T, D>&);                                     \
  HOW template void GradientSums<T, D>::forget(Transformer<T, D>&);                                     \
  HOW template class PipelinePasses<T, D>;                                                              \
  HOW template class TrainStep<T, D>;                                                                   \
  HOW template class Trainer<T, D>;                                                                     \
  HOW template class Speculator<T, D>;                                                                  \
  MTPX_INSTANCE_OF(HOW, detail::generate_all<T, D>)

/// A device that the libraries know, in its types.
#define MTPX_TRAINED_MODELS(HOW, D)       \
  HOW template class detail::TensorOf<D>; \
  MTPX_SUMS(HOW, float, D)                \
  MTPX_SUMS(HOW, double, D)               \
  MTPX_TRAINED_MODEL(HOW, float, D)       \
  MTPX_TRAINED_MODEL(HOW, double, D)      \
  MTPX_TRAINED_MODEL(HOW, bf16, D)

/// The device Reference, in the type that one compares with.
#define MTPX_REFERENCE_MODELS(HOW)                \
  HOW template class detail::TensorOf<Reference>; \
  MTPX_SUMS(HOW, double, Reference)               \
  MTPX_TRAINED_MODEL(HOW, double, Reference)

#ifdef MTPX_COMPILED
namespace mtpx {
MTPX_TRAINED_MODELS(extern, Cpu)
#ifdef MTPX_CUDA
MTPX_TRAINED_MODELS(extern, Cuda)
#endif
#ifdef MTPX_COMPILED_REFERENCE
MTPX_REFERENCE_MODELS(extern)
#endif
}  // namespace mtpx
#endif
