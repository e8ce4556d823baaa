#pragma once
// What a program needs that trains a model and writes with it, in one process. Doors of their own have, since
// every file that includes them pays for them: <mtpx/text.hpp>, <mtpx/distributed.hpp>,
// <mtpx/core/eigen.hpp>, <mtpx/reference.hpp> and io/, which needs a JSON library. Depends on the standard
// library alone.

#include <mtpx/autograd/checkpoint.hpp>
#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/autograd/tape.hpp>
#include <mtpx/comm/group.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/model/loss.hpp>
#include <mtpx/model/stage.hpp>
#include <mtpx/model/transformer.hpp>
#include <mtpx/model/with_depths.hpp>
#include <mtpx/nn/pack.hpp>
#include <mtpx/ops/arithmetic.hpp>
#include <mtpx/ops/attention.hpp>
#include <mtpx/ops/decode_block.hpp>
#include <mtpx/ops/dropout.hpp>
#include <mtpx/ops/embedding.hpp>
#include <mtpx/ops/experts.hpp>
#include <mtpx/ops/fill.hpp>
#include <mtpx/ops/functions.hpp>
#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/latent_attention.hpp>
#include <mtpx/ops/layout.hpp>
#include <mtpx/ops/linear.hpp>
#include <mtpx/ops/linear_cross_entropy.hpp>
#include <mtpx/ops/linear_distillation.hpp>
#include <mtpx/ops/losses.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/next_token.hpp>
#include <mtpx/ops/positions.hpp>
#include <mtpx/ops/reduce.hpp>
#include <mtpx/ops/rms_norm.hpp>
#include <mtpx/ops/rope.hpp>
#include <mtpx/ops/router.hpp>
#include <mtpx/ops/softmax.hpp>
#include <mtpx/ops/state_cache.hpp>
#include <mtpx/ops/swiglu.hpp>
#include <mtpx/train/adamw.hpp>
#include <mtpx/train/batches.hpp>
#include <mtpx/train/corpus.hpp>
#include <mtpx/train/gradient_sums.hpp>
#include <mtpx/train/schedule.hpp>
#include <mtpx/train/sharded.hpp>
#include <mtpx/train/tokens.hpp>
#include <mtpx/train/trainer.hpp>
#include <mtpx/version.hpp>
#ifdef MTPX_COMPILED
#include <mtpx/instances.hpp>
#endif
