#pragma once
// NCCL's functions, looked for when they are needed: nothing is linked, and no header of it or of CUDA's
// read.

#include <mtpx/core/error.hpp>

#include <dlfcn.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace mtpx {

namespace detail {

/// What of NCCL's interface is used: facts of its manual. Results are 0 where all is well.
struct NcclCalls {
  /// Names a communicator to be.
  struct Id {
    char bytes[128];
  };
  using Comm = void*;
  using Stream = void*;  // CUDA's
  static constexpr int ok = 0, in_progress = 7;
  static constexpr int bytes = 1;  // the type of what is moved

  int (*get_version)(int*) = nullptr;
  const char* (*get_error_string)(int) = nullptr;
  const char* (*get_last_error)(Comm) = nullptr;
  int (*get_unique_id)(Id*) = nullptr;
  int (*comm_init_rank)(Comm*, int, Id, int) = nullptr;
  int (*comm_destroy)(Comm) = nullptr;
  int (*comm_abort)(Comm) = nullptr;
  int (*comm_get_async_error)(Comm, int*) = nullptr;
  int (*group_start)() = nullptr;
  int (*group_end)() = nullptr;
  int (*send)(const void*, std::size_t, int, int, Comm, Stream) = nullptr;
  int (*recv)(void*, std::size_t, int, int, Comm, Stream) = nullptr;
  int (*all_gather)(const void*, void*, std::size_t, int, Comm, Stream) = nullptr;

  /// Loads the library: $MTPX_NCCL, or libnccl.so.2 from where the loader looks. It stays loaded. Throws
  /// DeviceError.
  NcclCalls() {
    const char* const named = std::getenv("MTPX_NCCL");
    const char* const file = named != nullptr ? named : "libnccl.so.2";
    void* const library = ::dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr)
      throw DeviceError(
          cat("[nccl] ", ::dlerror(),
              "; several GPUs need NCCL, version 2.18 or later: install it, or name its file in MTPX_NCCL"));
    const auto find = [&]<typename Call>(const char* name, Call& call) {
      void* const found = ::dlsym(library, name);
      if (found == nullptr)
        throw DeviceError(cat("[nccl] ", file, " has no ", name, ": it is too old, or not NCCL"));
      std::memcpy(&call, &found, sizeof call);
    };
    find("ncclGetVersion", get_version);
    find("ncclGetErrorString", get_error_string);
    find("ncclGetLastError", get_last_error);
    find("ncclGetUniqueId", get_unique_id);
    find("ncclCommInitRank", comm_init_rank);
    find("ncclCommDestroy", comm_destroy);
    find("ncclCommAbort", comm_abort);
    find("ncclCommGetAsyncError", comm_get_async_error);
    find("ncclGroupStart", group_start);
    find("ncclGroupEnd", group_end);
    find("ncclSend", send);
    find("ncclRecv", recv);
    find("ncclAllGather", all_gather);
  }
};

}  // namespace detail

}  // namespace mtpx
