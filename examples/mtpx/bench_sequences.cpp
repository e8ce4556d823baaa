// mtpx bench --decode --sequences: prompts, and decoding of several sequences side by side.

#include "bench.hpp"
#include "operations.hpp"
#include "pass_bytes.hpp"
#include "roofs.hpp"

#include <mtpx/core/rng.hpp>
#include <mtpx/decode/speculator.hpp>

#include <chrono>
#include <iostream>

namespace program {
namespace {

using mtpx::Index;

/// What a share of prompts is of: of the rate of a large product where there is one.
template <typename T>
double product_rate(const mtpx::Cpu& cpu) {
  return fma_peak(cpu, 5);
}
#ifdef MTPX_CUDA
template <typename T>
double product_rate(const mtpx::Cuda& gpu) {
  return matrix_peak<T>(again(gpu));
}
#endif

/// Operations of reading `count` prompts of `context` tokens each: those that training counts forward, and
/// the head of the last row.
double prompt_operations(const mtpx::Config& c, Index count, Index context) {
  double total = 2 * static_cast<double>(count * c.hidden_size) * static_cast<double>(c.vocab_size);
  for (Index layer = 0; layer < c.num_hidden_layers; ++layer)
    total += layer_operations(c, layer, count, context, true);
  return total;
}

std::vector<std::int32_t> random_prompt(Index length, Index vocab, std::uint64_t seed) {
  std::vector<std::int32_t> ids;
  for (Index i = 0; i < length; ++i)
    ids.push_back(static_cast<std::int32_t>(mtpx::Philox::block(2, seed, static_cast<std::uint64_t>(i))[0] %
                                            static_cast<std::uint32_t>(vocab)));
  return ids;
}

/// One number of sequences.
template <typename T, typename D>
mtpx::Json measure(const DecodeBench& o, const mtpx::Transformer<T, D>& model, Index count) {
  const mtpx::Config& c = model.config;
  const D& device = model.device();
  mtpx::GenerateOptions options;
  options.draft = 0;
  mtpx::Speculator<T, D> decoder(model, options, count, o.context + o.tokens + 2);
  // Prompts of one length, twice: the first time work is still being prepared.
  double first_token = 0, prompts = 0;
  for (int time = 0; time < 2; ++time) {
    const auto begin = Clock::now();
    for (Index i = 0; i < count; ++i) {
      decoder.add(random_prompt(o.context, c.vocab_size, static_cast<std::uint64_t>(i)), 0);
      if (i == 0) first_token = seconds_since(begin);
    }
    prompts = seconds_since(begin);
    for (Index i = 0; i < count; ++i) decoder.remove(i);
  }
  // Decoding of different ones, from half of that length on.
  Index entries = 0;
  for (Index i = 0; i < count; ++i) {
    const Index length = std::max<Index>(1, o.context - i * o.context / (2 * count));
    decoder.add(random_prompt(length, c.vocab_size, static_cast<std::uint64_t>(count + i)), 0);
    entries += length + o.tokens / 2;
  }
  const Index warm_up = std::min<Index>(4, o.tokens / 2);
  for (Index i = 0; i < warm_up; ++i) decoder.step();
  wait_for_host(device);
  const auto begin = Clock::now();
  for (Index i = warm_up; i < o.tokens; ++i) decoder.step();
  const double pass = seconds_since(begin) / static_cast<double>(o.tokens - warm_up);
  const double bytes = bytes_per_pass(model, count, entries), work = prompt_operations(c, count, o.context);
  mtpx::Json line{{"mode", "sequences"},
                  {"sequences", count},
                  {"context", o.context},
                  {"device", device_name(device)},
                  {"dtype", dtype_name<T>()},
                  {"first_token_ms", rounded(1e3 * first_token, 3)},
                  {"prompt_tokens_per_s", rounded(static_cast<double>(count * o.context) / prompts, 1)},
                  {"prompt_gflops", rounded(work / prompts / 1e9, 1)},
                  {"tokens_per_s", rounded(static_cast<double>(count) / pass, 1)},
                  {"us_per_pass", rounded(1e6 * pass, 1)},
                  {"mb_per_pass", rounded(bytes / 1e6, 2)}};
  name_device(line, device);
  if (const double roof = product_rate<T>(device); roof > 0) {
    line["product_gflops"] = rounded(roof / 1e9, 1);
    line["prompt_share"] = rounded(work / prompts / roof, 3);
  }
  const double roof = read_rate(device, bytes);
  line["read_gbs"] = rounded(roof / 1e9, 2);
  line["read_share"] = rounded(bytes / pass / roof, 3);
  return line;
}

}  // namespace

void bench_sequences(const DecodeBench& o) {
  with_numbers(o.device, [&](auto number, const auto& device) {
    using T = decltype(number);
    const auto model = decoding_model<T>(o, device);
    if (o.context + o.tokens + 2 > model.config.max_position_embeddings)
      throw mtpx::ConfigError(
          mtpx::cat("[bench] --context ", o.context, " and --tokens ", o.tokens,
                    ": max_position_embeddings = ", model.config.max_position_embeddings));
    for (const Index count : o.sequences) {
      std::cout << measure<T>(o, model, count).dump() << std::endl;
      if (!written()) return;
    }
  });
}

}  // namespace program
