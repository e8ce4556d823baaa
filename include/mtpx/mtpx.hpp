#pragma once
// All of mtpx but io/, which needs a JSON library, and what is written with Eigen: <mtpx/core/eigen.hpp> and
// <mtpx/reference.hpp>. Depends on the standard library alone.

#include <mtpx/autograd/checkpoint.hpp>
#include <mtpx/autograd/gradcheck.hpp>
#include <mtpx/autograd/tape.hpp>
#include <mtpx/core/cpu.hpp>
#include <mtpx/decode/generate.hpp>
#include <mtpx/model/backward.hpp>
#include <mtpx/model/loss.hpp>
#include <mtpx/model/transformer.hpp>
#include <mtpx/model/with_depths.hpp>
#include <mtpx/ops/dropout.hpp>
#include <mtpx/ops/gather.hpp>
#include <mtpx/ops/losses.hpp>
#include <mtpx/ops/matmul.hpp>
#include <mtpx/ops/softmax.hpp>
#include <mtpx/text/bpe_train.hpp>
#include <mtpx/text/tokenizer.hpp>
#include <mtpx/train/adamw.hpp>
#include <mtpx/train/batches.hpp>
#include <mtpx/train/corpus.hpp>
#include <mtpx/train/schedule.hpp>
#include <mtpx/train/tokens.hpp>
#include <mtpx/train/trainer.hpp>
#include <mtpx/version.hpp>
#ifdef MTPX_COMPILED
#include <mtpx/instances.hpp>
#endif
