#pragma once
// The chat template of a model folder, and JSON as what templates compute with.

#include <mtpx/io/file.hpp>
#include <mtpx/io/json.hpp>
#include <mtpx/io/tokenizer_files.hpp>
#include <mtpx/text/chat_template.hpp>

#include <filesystem>
#include <map>
#include <string>

namespace mtpx {

/// JSON as a value of chat templates. Throws ConfigError for nesting deeper than 64, and for a whole number
/// of more than 63 bits.   Value: Json or nlohmann::json
template <typename Value>
TemplateValue template_value(const Value& json) {
  if (json.is_string()) return json.template get<std::string>();
  if (json.is_boolean()) return json.template get<bool>();
  if (json.is_number_unsigned() && json.template get<std::uint64_t>() >> 63U != 0)
    detail::template_fault("a number of more than 63 bits");
  if (json.is_number_integer()) return json.template get<std::int64_t>();
  if (json.is_number()) return json.template get<double>();
  if (json.is_array()) {
    std::vector<TemplateValue> items;
    for (const Value& item : json) items.push_back(template_value(item));
    return TemplateValue::list_of(std::move(items));
  }
  if (!json.is_object()) return nullptr;
  TemplateValue::Pairs pairs;
  for (const auto& [key, value] : json.items()) pairs.emplace_back(key, template_value(value));
  return pairs;
}

/// What a model folder says of conversations.
struct ChatFormat {
  ChatTemplate chat;  ///< how they are written
  std::map<std::string, std::string>
      tokens;  ///< special tokens' texts as templates know them: "bos_token", ...
};

/// The chat template of a folder: `file`, if it is not empty; chat_template.jinja; or chat_template of
/// tokenizer_config.json, of several the one named "default". That file's bos_token, eos_token, pad_token and
/// unk_token go with it. Throws FileError for what cannot be read, and where there is no template.
inline ChatFormat read_chat_format(const std::filesystem::path& folder,
                                   const std::filesystem::path& file = {}) {
  constexpr Index most_template = Index{1} << 20, most_settings = Index{1} << 26;
  constexpr std::size_t most_values = 2'000'000;  // of settings that list each added token
  const std::filesystem::path settings_path = folder / detail::tokenizer_settings_name,
                              usual = folder / detail::chat_template_name;
  const auto fail = [](const std::filesystem::path& path, const std::string& cause) {
    throw FileError(cat("[template] ", path.string(), ": ", cause));
  };
  nlohmann::json settings = nlohmann::json::object();
  if (std::filesystem::exists(settings_path)) {
    settings =
        parse_json<nlohmann::json>("template", InputFile("template", settings_path).read_text(most_settings),
                                   settings_path.string(), most_values);
    if (!settings.is_object()) fail(settings_path, "is not an object");
  }
  std::map<std::string, std::string> tokens;
  for (const char* name : {"bos_token", "eos_token", "pad_token", "unk_token"}) {
    const auto found = settings.find(name);
    if (found == settings.end() || found->is_null()) continue;
    const nlohmann::json& text =
        found->is_object() && found->contains("content") ? (*found)["content"] : *found;
    if (!text.is_string()) fail(settings_path, cat(name, " = ", detail::json_text(text), ": must be a text"));
    tokens[name] = text.get<std::string>();
  }
  const auto read = [&](const std::filesystem::path& path) {
    return ChatFormat{ChatTemplate(InputFile("template", path).read_text(most_template), path.string()),
                      tokens};
  };
  if (!file.empty()) return read(file);
  if (std::filesystem::exists(usual)) return read(usual);
  const auto found = settings.find("chat_template");
  if (found == settings.end() || found->is_null()) {
    fail(folder,
         "has no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json; "
         "--template names a file that has one");
  }
  const auto texts = detail::chat_template_texts(InputFile("template", settings_path), settings);
  const auto text = texts.find("");
  if (text == texts.end()) fail(settings_path, "chat_template has none that is named \"default\"");
  return {ChatTemplate(text->second, settings_path.string() + ": chat_template"), tokens};
}

}  // namespace mtpx
