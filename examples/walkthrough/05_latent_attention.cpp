// Multi-head latent attention: decoding keeps one short latent per token, and gives what training gives.

#include "claim.hpp"

#include <mtpx/core/cpu.hpp>
#include <mtpx/nn/mla.hpp>

#include <cmath>
#include <iostream>
#include <string>
#include <vector>

namespace {

using mtpx::Cpu;
using mtpx::Index;
using Matrix = mtpx::Tensor<double, Cpu>;
using Ids = mtpx::Tensor<std::int32_t, Cpu>;

Matrix random(const Cpu& cpu, mtpx::Shape shape, std::uint64_t stream, double deviation) {
  const Matrix numbers(cpu, shape);
  draw_normals(cpu, shape.size(), 1, stream, deviation, numbers.data());
  return numbers;
}

}  // namespace

int main() {
  const Cpu cpu(1);
  const Index time = 7;
  // hidden, heads, widths of the two latents (query, key and value), of a head's nope | rope | v, scale
  const mtpx::MlaOptions o{32, 4, 12, 10, 8, 4, 8, mtpx::attention_scale(8 + 4, std::nullopt)};
  mtpx::Mla<double, Cpu> mla(cpu, o);
  std::uint64_t stream = 0;
  mtpx::for_each_parameter(mla, [&](const std::string& name, auto& parameter) {
    parameter.value().assign(random(cpu, parameter.shape(), ++stream, 0.3).to_host());
    std::cout << name << ' ' << parameter.shape().str() << '\n';
  });
  const auto table = mtpx::make_rope_table<double>(cpu, 16, o.rope, 10000, std::nullopt);
  const Matrix x = random(cpu, {1, time, o.hidden}, 100, 1);

  // Whole sequences: keys and values of every head are made from the latent (Eq. 1-11).
  Ids positions(cpu, {1, time});
  fill_positions(cpu, 1, time, 0, positions.data());
  const auto whole = [&](const Matrix& in) {
    mtpx::Tape tape(mtpx::Mode::inference);
    return mla(tape.input(in), table, positions, {}).value().to_host();
  };
  const std::vector<double> all = whole(x);

  // One token at a time: only the normed latent and the rotated key are kept.
  const mtpx::LatentCache<double, Cpu> cache{Matrix::zeros(cpu, {1, time, o.kv_lora_rank + o.rope})};
  double worst = 0;
  for (Index t = 0; t < time; ++t) {
    mtpx::Tape tape(mtpx::Mode::inference);
    const mtpx::DecodeRows<Cpu> row{Ids::zeros(cpu, {1}), positions.reshape({time}).slice_front(t, t + 1)};
    const Matrix token = x.reshape({time, o.hidden}).slice_front(t, t + 1).reshape({1, 1, o.hidden});
    const std::vector<double> y = mla.decode(tape.input(token), table, row, cache).value().to_host();
    for (std::size_t c = 0; c < y.size(); ++c)
      worst = std::max(worst, std::abs(y[c] - all[static_cast<std::size_t>(t * o.hidden) + c]));
  }
  std::cout << "largest difference between decoding and the whole sequence: " << worst << '\n';
  claim("the two are equal up to rounding", worst < 1e-13);

  const Index latent = o.kv_lora_rank + o.rope;
  std::cout << "numbers kept per token: " << latent << "; the keys and values of all heads are "
            << o.heads * (o.nope + o.rope + o.v) << '\n';
  claim("the cache holds latent and rotated key only", cache.entries.size() == time * latent);

  // Causal: the last token reaches no row before its own, not even in the last bit.
  Matrix changed = random(cpu, x.shape(), 100, 1);
  changed.data()[(time - 1) * o.hidden] += 1;
  std::vector<double> after = whole(changed), before = all;
  claim("the last row changes", after != before);
  after.resize(static_cast<std::size_t>((time - 1) * o.hidden));
  before.resize(after.size());
  claim("all other rows keep their bits", after == before);
  return all_hold ? 0 : 1;
}
