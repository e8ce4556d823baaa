#pragma once
// The tensor files of a model folder: one, or the shards that an index lists.

#include <mtpx/io/json.hpp>
#include <mtpx/io/safetensors.hpp>
#include <mtpx/io/tensor_problems.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace mtpx {

namespace detail {

constexpr const char* weights_name = "model.safetensors";
constexpr const char* index_name = "model.safetensors.index.json";

/// Whether `name` can only mean a file in the same folder.
inline bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string_view::npos &&
         name.find('\\') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

/// An index, tensor to shard; throws FileError.
inline std::map<std::string, std::string> read_index(const std::filesystem::path& path) {
  const InputFile file("index", path);
  // DeepSeek-V3's index has 92,000 tensors in 9 MB.
  const auto json = parse_json<nlohmann::json>("index", file.read_text(Index{1} << 26), file.path(),
                                               2 * max_tensors + 1000);
  const auto* map = json.is_object() && json.contains("weight_map") ? &json["weight_map"] : nullptr;
  if (map == nullptr || !map->is_object()) file.fail("weight_map must be an object");
  std::map<std::string, std::string> shards;
  for (const auto& [name, shard] : map->items()) {
    const std::string where = cat("weight_map: the file of ", quote(name));
    if (!shard.is_string()) file.fail(cat(where, " must be a string, not ", json_text(shard)));
    if (!is_plain_file_name(shard.get_ref<const std::string&>())) {
      file.fail(cat(where, ", ", json_text(shard), ", must lie in the same folder"));
    }
    shards.emplace(name, shard.get<std::string>());
  }
  if (shards.empty()) file.fail("weight_map is empty");
  return shards;
}

}  // namespace detail

/// The tensors of a model folder, wherever they lie: in model.safetensors, or else in the shards that
/// model.safetensors.index.json names:
///
///   {"metadata": {...}, "weight_map": {"name of a tensor": "name of a file in this folder", ...}}
///
/// Index and shards must agree: each listed tensor is in the shard it is listed for, and no shard holds
/// another one. Every failure throws FileError.
class WeightFiles {
 public:
  /// A tensor and the file that holds it.
  struct Weight {
    const SafeTensors* file = nullptr;        ///< the shard, owned by WeightFiles
    const SafeTensorsEntry* entry = nullptr;  ///< its entry there; null where find() finds nothing
  };

  /// Opens the index and all shards, and compares them. Reads no weights.
  static WeightFiles open(const std::filesystem::path& folder, SafeTensorsOptions options = {}) {
    WeightFiles all;
    const std::filesystem::path single = folder / detail::weights_name;
    const std::filesystem::path index = folder / detail::index_name;
    std::error_code ignored;
    if (std::filesystem::exists(single, ignored) || !std::filesystem::exists(index, ignored)) {
      all.path_ = single.string();
      all.files_.push_back(std::make_unique<SafeTensors>(SafeTensors::open(single, options)));
      for (const SafeTensorsEntry& entry : all.files_[0]->tensors()) {
        all.weights_.emplace(entry.name, Weight{all.files_[0].get(), &entry});
      }
    } else {
      all.path_ = index.string();
      all.open_shards(folder, detail::read_index(index), options);
    }
    return all;
  }

  /// Takes tensors of another file as well; those that `replaced` says of a name make room for them.
  template <typename Replaced>
  void join(SafeTensors file, const Replaced& replaced) {
    std::erase_if(weights_, [&](const auto& weight) { return replaced(weight.first); });
    files_.push_back(std::make_unique<SafeTensors>(std::move(file)));
    for (const SafeTensorsEntry& entry : files_.back()->tensors())
      weights_.insert_or_assign(entry.name, Weight{files_.back().get(), &entry});
  }

  /// The file that lists the tensors: model.safetensors or the index.
  const std::string& path() const { return path_; }

  /// All tensors, by name in byte order.
  const std::map<std::string_view, Weight>& weights() const { return weights_; }

  /// The tensor of that name; a null entry if there is none.
  Weight find(std::string_view name) const {
    const auto place = weights_.find(name);
    return place == weights_.end() ? Weight{} : place->second;
  }

 private:
  void open_shards(const std::filesystem::path& folder, const std::map<std::string, std::string>& listed,
                   SafeTensorsOptions options) {
    std::map<std::string, const SafeTensors*> shards;
    for (const auto& [name, shard] : listed) {
      const SafeTensors*& file = shards[shard];
      if (file != nullptr) continue;
      files_.push_back(std::make_unique<SafeTensors>(SafeTensors::open(folder / shard, options)));
      file = files_.back().get();
    }
    std::vector<std::string> problems;
    for (const auto& [name, shard] : listed) {
      const SafeTensorsEntry* entry = shards[shard]->find(name);
      if (entry == nullptr) {
        problems.push_back(cat(detail::quote(name), " is listed for ", shard, ", which does not hold it"));
      } else {
        weights_.emplace(entry->name, Weight{shards[shard], entry});
      }
    }
    for (const auto& [shard, file] : shards) {
      for (const SafeTensorsEntry& entry : file->tensors()) {
        const auto place = listed.find(entry.name);
        if (place == listed.end()) {
          problems.push_back(cat(detail::quote(entry.name), " lies in ", shard, " and is not listed"));
        } else if (place->second != shard) {
          problems.push_back(
              cat(detail::quote(entry.name), " lies in ", shard, " too, and is listed for ", place->second));
        }
      }
    }
    if (problems.empty()) return;
    throw FileError(detail::first_ten(
        cat("[index] ", path_, ": ", problems.size(), " tensors do not lie where it says"), problems));
  }

  std::string path_;
  std::vector<std::unique_ptr<SafeTensors>> files_;
  std::map<std::string_view, Weight> weights_;  // names live in the files
};

namespace detail {

/// Whether two tensors hold the same numbers. They have one shape, and a dtype of numbers.
inline bool same_numbers(const WeightFiles::Weight& a, const WeightFiles::Weight& b) {
  if (a.entry->dtype != b.entry->dtype)
    return a.file->read<double>(*a.entry) == b.file->read<double>(*b.entry);
  const Index step = Index{1} << 20, size = a.entry->bytes();
  std::vector<std::byte> left, right;
  for (Index done = 0; done < size; done += step) {
    left.resize(static_cast<std::size_t>(std::min(step, size - done)));
    right.resize(left.size());
    a.file->read_bytes(*a.entry, done, left);
    b.file->read_bytes(*b.entry, done, right);
    if (left != right) return false;
  }
  return true;
}

}  // namespace detail

}  // namespace mtpx
