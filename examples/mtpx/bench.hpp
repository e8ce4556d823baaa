#pragma once

#include "text.hpp"

namespace program {

/// `mtpx bench --decode`: plain and drafted decoding side by side.
struct DecodeBench {
  ModelSource model;  ///< without a folder: random weights for `config`
  ConfigSource config;
  DraftVocabulary draft_vocabulary;
  std::vector<std::string> data;
  mtpx::Index context = 512;
  mtpx::Index tokens = 64;
  mtpx::Index prompts = 8;
  bool table = false;           ///< lines for people instead of JSON
  mtpx::GenerateOptions rules;  ///< temperature, how drafts are picked and checked
  DeviceOptions device;
};

void bench_decode(const DecodeBench& o);

}  // namespace program
