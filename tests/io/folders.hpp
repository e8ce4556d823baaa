#pragma once
// What tests of model folders do to them.

#include <mtpx/io/instances.hpp>

#include "io/support.hpp"
#include "support/model.hpp"

#include <map>
#include <string>
#include <utility>
#include <vector>

namespace folder_test {

using namespace mtpx;
using namespace mtpx::test;
using mtpx_test::Folder;

template <typename T>
std::map<std::string, Numbers> tensors(const Transformer<T, Cpu>& model) {
  std::map<std::string, Numbers> all;
  for_each_tensor(model, [&](const std::string& name, const auto& tensor) { all[name] = host(tensor); });
  return all;
}

/// The smallest model there is: 13 tensors.
inline Config smallest() {
  Config c = dense_config(0);
  c.num_hidden_layers = 1;
  return c;
}

using Tensors = std::map<std::string, std::pair<std::vector<Index>, std::vector<float>>>;

/// Reads a file of floats, lets `change` have it, and writes it again.
template <typename Change>
void rewrite(const std::filesystem::path& path, const Change& change) {
  Tensors all;
  {
    const SafeTensors file = SafeTensors::open(path);
    for (const SafeTensorsEntry& entry : file.tensors())
      all[entry.name] = {entry.shape, file.read<float>(entry)};
  }
  change(all);
  std::vector<TensorBytes> out;
  for (const auto& [name, tensor] : all)
    out.push_back({name, DType::f32, tensor.first, std::as_bytes(std::span(tensor.second))});
  write_safetensors(path, out);
}

}  // namespace folder_test
