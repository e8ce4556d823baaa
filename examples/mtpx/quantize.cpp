// mtpx quantize: a model folder in, one with its matrices in 8 bits out.

#include "text.hpp"

#include <iostream>

namespace program {
namespace {

struct QuantizeFlags {
  ModelSource model;
  std::string out;
  std::vector<mtpx::Index> block{1, 128};
  bool force = false;
  int threads = 0;
};

/// What stands beside the weights, as it is.
mtpx::TokenizerFiles files_of(const QuantizeFlags& o) {
  const std::filesystem::path file = mtpx::tokenizer_path(o.model.folder, o.model.options());
  return tokenizer_files({}, file, o.model.folder);
}

void quantize(const QuantizeFlags& o) {
  if (!o.force && mtpx::has_model(o.out))
    throw mtpx::ConfigError(
        mtpx::cat("[quantize] --out ", o.out, ": has a model already; --force replaces it"));
  LoadingLine line(o.model.folder, "quantizing");
  mtpx::Int8Options options{{o.block[0], o.block[1]}, o.model.options(), files_of(o), {}};
  options.progress = [&](mtpx::Index done, mtpx::Index all) { line.show(done, all); };
  mtpx::write_int8(o.out, o.model.folder, options, mtpx::Cpu(o.threads));
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto options = std::make_shared<QuantizeFlags>();
  QuantizeFlags& o = *options;
  CLI::App* command = app.add_subcommand(
      "quantize", "Write a model folder with its matrices in 8 bits, which a processor decodes with");
  o.model.add(*command)->required();
  command->add_option("--out", o.out, "Folder of the model in 8 bits")->required();
  command->add_option("--block", o.block, "Rows and columns of the blocks of numbers that share a scale")
      ->delimiter(',')
      ->expected(2)
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command->add_flag("--force", o.force, "Replace the model in --out");
  command
      ->add_option("--threads", o.threads, "Threads; 0 takes every processor. The files do not depend on it")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->callback([options] { quantize(*options); });
}

}  // namespace program
