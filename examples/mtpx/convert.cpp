// mtpx convert: a model folder in, one GGUF file out, for llama.cpp.

#include "text.hpp"

#include <iostream>

namespace program {
namespace {

struct ConvertFlags {
  ModelSource model;
  std::string out;
  mtpx::GgufType type = mtpx::GgufType::bf16;
  bool no_mtp = false, no_tokenizer = false, force = false;
  int threads = 0;
};

mtpx::GgufSummary write(const ConvertFlags& o, mtpx::GgufOptions options) {
  LoadingLine line(o.model.folder, "converting");
  options.progress = [&](mtpx::Index done, mtpx::Index all) { line.show(done, all); };
  try {
    return mtpx::write_gguf(o.out, o.model.folder, options, mtpx::Cpu(o.threads));
  } catch (const mtpx::FileError& error) {  // about the model, or about the file
    if (std::string_view(error.what()).starts_with(mtpx::cat("[gguf] ", o.out, ": ")))
      throw OutputError(error.what());
    throw;
  }
}

void convert(const ConvertFlags& o) {
  std::error_code none;
  if (!o.force && std::filesystem::exists(o.out, none))
    throw mtpx::ConfigError(mtpx::cat("[convert] --out ", o.out, ": is there already; --force replaces it"));
  mtpx::GgufOptions options{o.type, !o.no_mtp, {}, o.model.options(), o.model.mtp, {}};
  if (!o.no_tokenizer)
    options.tokenizer = tokenizer_of(o.model.folder, o.model.config().config, options.files);
  const mtpx::GgufSummary written = write(o, options);
  for (const std::string& notice : written.notices) std::cerr << "notice: " << notice << '\n';
  std::cout << o.out << ": " << written.tensors << " tensors, " << gguf_type_name(o.type)
            << (written.mtp ? ", with an MTP module" : ", no MTP module") << ", " << written.bytes
            << " bytes\n";
}

}  // namespace

void add_convert(CLI::App& app) {
  auto options = std::make_shared<ConvertFlags>();
  ConvertFlags& o = *options;
  CLI::App* command = app.add_subcommand(
      "convert", "Write a model folder as one GGUF file, which llama.cpp (v0.5.0) reads and drafts with");
  CLI::Option* model = o.model.add(*command)->required();
  o.model.add_mtp(*command, model);
  command->add_option("--out", o.out, "GGUF file")->required();
  std::map<std::string, mtpx::GgufType> types;
  for (const mtpx::GgufType type : mtpx::gguf_types) types.emplace(mtpx::gguf_type_name(type), type);
  command->add_option("--type", o.type, "Of matrices: f32, f16, bf16, q8_0; vectors and routers are f32")
      ->transform(CLI::CheckedTransformer(types))
      ->default_str("bf16");
  command->add_flag("--no-mtp", o.no_mtp, "Leave the MTP module out")->excludes(command->get_option("--mtp"));
  command->add_flag("--no-tokenizer", o.no_tokenizer,
                    "Leave the tokenizer out: for those that llama.cpp has no name for; it takes ids then");
  command->add_flag("--force", o.force, "Replace --out");
  command
      ->add_option("--threads", o.threads, "Threads; 0 takes every processor. The file does not depend on it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([options] { convert(*options); });
}

}  // namespace program
