#pragma once
// What a program has trained, as a file: a module, the state of its optimiser, or any tensors by name. The
// format is safetensors, types are kept, and what comes back is the same to the last bit.

#include <mtpx/io/safetensors.hpp>
#include <mtpx/io/tensor_problems.hpp>
#include <mtpx/kernels.hpp>
#include <mtpx/nn/module.hpp>

#include <algorithm>
#include <charconv>
#include <exception>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

inline std::vector<Index> extents(const Shape& shape) {
  std::vector<Index> all;
  for (int axis = 0; axis < shape.rank(); ++axis) all.push_back(shape[axis]);
  return all;
}

/// The threads that feed a device: its own where it is the host.
template <typename D>
Cpu host_of(const D& device) {
  if constexpr (std::is_same_v<D, Cpu>) {
    return device;
  } else {
    return Cpu();
  }
}

/// Runs part(begin, end) over parts of [0, count) on the host's threads. Parts may throw, unlike tasks: the
/// first of them that does is heard, as if they ran in order.
template <typename Part>
void in_parts(const Cpu& host, Index count, const Part& part) {
  constexpr Index size = Index{1} << 16;
  const Index parts = (count + size - 1) / size;
  std::mutex mutex;
  Index failed = parts;
  std::exception_ptr error;
  cpu::parallel_for(host, parts, [&](Index i) {
    try {
      part(i * size, std::min(count, (i + 1) * size));
    } catch (...) {
      const std::lock_guard lock(mutex);
      if (i >= failed) return;
      failed = i;
      error = std::current_exception();
    }
  });
  if (error != nullptr) std::rethrow_exception(error);
}

/// Which names of a file belong to somebody else, a stage of a pipeline; none given: no name does.
using Elsewhere = std::function<bool(const std::string& name)>;

/// Throws FileError unless `file` holds the tensors that `each` visits and no others, of their shapes and
/// types.
template <typename Each>
void check_tensors(const SafeTensors& file, const Each& each, const Elsewhere& elsewhere = {}) {
  TensorProblems problems;
  std::set<std::string> expected;
  each([&](const std::string& name, const auto& tensor) {
    constexpr DType dtype = dtype_of<typename std::remove_cvref_t<decltype(tensor)>::value_type>();
    expected.insert(name);
    const SafeTensorsEntry* entry = file.find(name);
    if (entry == nullptr) return problems.missing(name);
    if (!tensor.defined())
      return problems.note(cat("undefined ", name, ": there is nothing to read it into"));
    if (!tensor.contiguous())
      return problems.note(cat("strided ", name, ": only dense tensors are read into"));
    if (!problems.same_shape(name, entry->shape, extents(tensor.shape()))) return;
    if (entry->dtype != dtype)
      problems.note(
          cat("of another type ", name, ": ", entry->dtype_name, " instead of ", dtype_name(dtype)));
  });
  for (const SafeTensorsEntry& entry : file.tensors()) {
    if (expected.contains(entry.name) || (elsewhere && elsewhere(entry.name))) continue;
    problems.unexpected(entry.name);
  }
  problems.finish("load", file.path(), "what they are read into");
}

/// Throws FileError unless these tensors have the bytes that were written, as far as their files tell. All
/// threads of the host look, each at a tensor.
/// weights: pairs of a file and its entry   looked(entry): what its thread says of each that has them
template <typename Weights, typename Looked>
void verify_tensors(const Cpu& host, const Weights& weights, const Looked& looked) {
  cpu::parallel_tasks(host, static_cast<Index>(weights.size()), [&](Index i) {
    const auto& [file, entry] = weights[static_cast<std::size_t>(i)];
    file->verify(*entry);
    looked(*entry);
  });
}

/// Writes the tensors that `each` visits to a file, which finish(writer) gives its name.
template <typename Each, typename Finish>
void write_tensors(const std::filesystem::path& path, const Each& each, const FileMetadata& metadata,
                   const Finish& finish) {
  std::vector<TensorInfo> infos;
  std::map<std::string, std::function<void(SafeTensorsWriter&)>> writers;
  each([&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    if (!tensor.defined()) throw Error(cat("[save] ", path.string(), ": ", name, " is undefined"));
    infos.push_back({name, dtype_of<N>(), extents(tensor.shape())});
    writers[name] = [tensor](SafeTensorsWriter& file) {
      const std::vector<N> values = tensor.to_host();
      file.write(std::as_bytes(std::span<const N>(values)));
    };
  });
  SafeTensorsWriter file(path, std::move(infos), metadata);
  for (const TensorInfo& info : file.tensors()) writers.at(info.name)(file);
  finish(file);
}

/// Overwrites the tensors that `each` visits, which have been checked.
template <typename Each>
void read_tensors(const SafeTensors& file, const Each& each) {
  std::vector<std::pair<const SafeTensors*, const SafeTensorsEntry*>> all;
  for (const SafeTensorsEntry& entry : file.tensors()) all.emplace_back(&file, &entry);
  verify_tensors(Cpu(), all, [](const SafeTensorsEntry&) {});
  each([&](const std::string& name, const auto& tensor) {
    using N = typename std::remove_cvref_t<decltype(tensor)>::value_type;
    constexpr auto bytes = static_cast<Index>(sizeof(N));
    const SafeTensorsEntry& entry = file.at(name);
    const Cpu host = host_of(tensor.device());
    tensor.assign_by([&](Index first, std::span<N> out) {
      in_parts(host, static_cast<Index>(out.size()), [&](Index begin, Index end) {
        const auto part = out.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
        file.read_bytes(entry, (first + begin) * bytes, std::as_writable_bytes(part));
      });
    });
  });
}

}  // namespace detail

/// Writes the tensors that `each` visits, of any device, in their own types; one of them at a time is on the
/// host. The file appears complete or not at all, and its bytes depend on names and numbers alone.
///
/// each: each(visit) calls visit(name, tensor) for every tensor
///
///   save_tensors(path, [&](const auto& visit) { visit("a", a), visit("b", b); });
///
/// Throws FileError; Error for a tensor that is undefined.
template <typename Each>
void save_tensors(const std::filesystem::path& path, const Each& each,
                  const FileMetadata& metadata = {{"format", "pt"}}) {
  detail::write_tensors(path, each, metadata, [](SafeTensorsWriter& file) { file.finish(); });
}

/// Overwrites the tensors that `each` visits with those of the file, and returns its metadata. The two must
/// agree in names, shapes and types, and the bytes with the file's checksums: else FileError, which lists
/// what does not fit, a line each and ten at most, and nothing has been overwritten.
///
/// each: as for save_tensors(); called twice
template <typename Each>
FileMetadata load_tensors(const std::filesystem::path& path, const Each& each,
                          SafeTensorsOptions options = {}) {
  const SafeTensors file = SafeTensors::open(path, options);
  detail::check_tensors(file, each);
  detail::read_tensors(file, each);
  return file.metadata();
}

/// Writes everything that a module with `members` holds, under their names: parameters and states, experts
/// one by one. See save_tensors().
template <typename Module>
void save_module(const std::filesystem::path& path, const Module& module,
                 const FileMetadata& metadata = {{"format", "pt"}}) {
  save_tensors(
      path, [&](const auto& visit) { for_each_tensor(module, visit); }, metadata);
}

/// Reads it back into a module of the same members, shapes and types. See load_tensors().
///
/// Where an optimiser has taken steps with a bf16 module it goes on from its own masters: load its state,
/// too, or make a new one.
template <typename Module>
FileMetadata load_module(const std::filesystem::path& path, Module& module, SafeTensorsOptions options = {}) {
  return load_tensors(
      path, [&](const auto& visit) { for_each_tensor(module, visit); }, options);
}

namespace detail {
/// What a file of an optimiser's state says beside its tensors.
template <typename Optimizer>
FileMetadata optimizer_metadata(const Optimizer& optimizer) {
  return {{"format", "pt"}, {"steps", std::to_string(optimizer.steps())}};
}
}  // namespace detail

/// Writes the state of a module's optimiser under the names of AdamW::for_each_state(), and its count of
/// steps as the metadata "steps". With the module's own file, a run goes on to the same bits. See
/// save_tensors().
template <typename Optimizer, typename Module>
void save_optimizer(const std::filesystem::path& path, Optimizer& optimizer, Module& module) {
  save_tensors(
      path, [&](const auto& visit) { optimizer.for_each_state(module, visit); },
      detail::optimizer_metadata(optimizer));
}

/// Reads it back, for a module of the same names and shapes; parameters that had state when it was saved may
/// be frozen after, not before. See load_tensors().   elsewhere: names that are another module's
template <typename Optimizer, typename Module>
void load_optimizer(const std::filesystem::path& path, Optimizer& optimizer, Module& module,
                    SafeTensorsOptions options = {}, const detail::Elsewhere& elsewhere = {}) {
  const SafeTensors file = SafeTensors::open(path, options);
  const auto found = file.metadata().find("steps");
  const std::string text = found == file.metadata().end() ? "" : found->second;
  Index steps = -1;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), steps);
  if (failed != std::errc{} || end != text.data() + text.size() || steps < 0)
    throw FileError(cat("[load] ", file.path(), ": no optimiser's state: its metadata \"steps\" is ",
                        detail::quote(text)));
  const auto each = [&](const auto& visit) { optimizer.for_each_state(module, visit); };
  detail::check_tensors(file, each, elsewhere);
  detail::read_tensors(file, each);
  optimizer.set_steps(steps);
}

}  // namespace mtpx
