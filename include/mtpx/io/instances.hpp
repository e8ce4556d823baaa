#pragma once
// Model folders, GGUF files, JSON and checksums, as our own programs hold them once: ../instances.hpp, for
// what needs the JSON library.

#include <mtpx/core/cpu.hpp>
#include <mtpx/instances.hpp>
#include <mtpx/io/checksum.hpp>
#include <mtpx/io/gguf_model.hpp>
#include <mtpx/io/int8_folder.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/io/model_folder.hpp>
#include <mtpx/io/sidecar.hpp>
#include <mtpx/io/train_run.hpp>
#include <mtpx/io/train_state.hpp>

#define MTPX_MODEL_FOLDER(HOW, T, D)                \
  HOW template struct LoadedModel<T, D>;            \
  MTPX_INSTANCE_OF(HOW, detail::load_weights<T, D>) \
  MTPX_INSTANCE_OF(HOW, load_model<T, D>)           \
  MTPX_INSTANCE_OF(HOW, save_model<T, D>)

/// Checkpoints of a run, in the types that the program trains in.
#define MTPX_RUN(HOW, T, D)                  \
  MTPX_INSTANCE_OF(HOW, save_training<T, D>) \
  MTPX_INSTANCE_OF(HOW, save_trained<T, D>)  \
  MTPX_INSTANCE_OF(HOW, load_training<T, D>)

#define MTPX_MODEL_FOLDERS(HOW, D)                \
  MTPX_MODEL_FOLDER(HOW, float, D)                \
  MTPX_MODEL_FOLDER(HOW, double, D)               \
  MTPX_MODEL_FOLDER(HOW, bf16, D)                 \
  MTPX_RUN(HOW, float, D)                         \
  MTPX_INSTANCE_OF(HOW, train_and_save<float, D>) \
  MTPX_RUN(HOW, bf16, D)

/// What reads every weight.
#define MTPX_CONVERT(HOW)                \
  MTPX_INSTANCE_OF(HOW, convert<float>)  \
  MTPX_INSTANCE_OF(HOW, convert<double>) \
  MTPX_INSTANCE_OF(HOW, convert<bf16>)

#define MTPX_GGUF(HOW)                   \
  MTPX_INSTANCE_OF(HOW, write_gguf<Cpu>) \
  MTPX_INSTANCE_OF(HOW, write_int8<Cpu>)

#define MTPX_CHECKSUM(HOW) MTPX_INSTANCE_OF(HOW, detail::xxh64_stripes<std::uint64_t>)

#ifdef MTPX_COMPILED_IO
namespace mtpx {
MTPX_CHECKSUM(extern)
MTPX_CONVERT(extern)
MTPX_GGUF(extern)
MTPX_MODEL_FOLDERS(extern, Cpu)
#ifdef MTPX_CUDA
MTPX_MODEL_FOLDERS(extern, Cuda)
#endif
}  // namespace mtpx
#endif
