#pragma once
// From random words to normal numbers, in steps that every device rounds alike (formulas.hpp).

#include "formulas.hpp"

namespace mtpx::exact {

/// cos and sin of an angle of `word` / 2^32 turns, within 2 units of 2^-24.
///
/// The nearest quarter turn is taken off, which leaves |x| <= pi / 4 for the series of both.
template <typename V>
struct Turned {
  V cos, sin;  ///< of the angle

  MTPX_ANYWHERE explicit Turned(Words<V> word) {
    const Words<V> quarter = (word + (1U << 29)) >> 30;
    const V x = product(real<V>(std::bit_cast<Ints<V>>(word - (quarter << 30))),
                        all<V>(0x1.921fb6p-30F));  // 2 pi / 2^32
    const V z = product(x, x);
    V s = fma(z, all<V>(1.0F / 362880), all<V>(-1.0F / 5040));
    s = fma(s, z, all<V>(1.0F / 120));
    s = fma(s, z, all<V>(-1.0F / 6));
    s = fma(product(s, z), x, x);
    V c = fma(z, all<V>(-1.0F / 3628800), all<V>(1.0F / 40320));
    c = fma(c, z, all<V>(-1.0F / 720));
    c = fma(c, z, all<V>(1.0F / 24));
    c = fma(c, z, all<V>(-0.5F));
    c = fma(c, z, all<V>(1.0F));
    const auto odd = (quarter & 1U) != 0;
    cos = with_sign(odd ? s : c, quarter + 1U);
    sin = with_sign(odd ? c : s, quarter);
  }

 private:
  /// -v where bit 1 of n is set.
  static MTPX_ANYWHERE V with_sign(V v, Words<V> n) {
    return std::bit_cast<V>(std::bit_cast<Words<V>>(v) ^ ((n & 2U) << 30));
  }
};

/// Four independent standard normal floats of four random words (Box & Muller 1958):
///
///   n_0 = r cos a,   n_1 = r sin a,   r = sqrt(-2 ln u),   u = (w_0 + 1) / 2^32,   a = w_1 / 2^32 turns
///
/// and likewise n_2, n_3 of w_2, w_3. w_0's last bit is left out, and u is rounded to a float in [2^-32, 1]:
/// so no number is beyond 6.66, and one in 2^25 is 0.
///
/// V: float or a vector of floats   sqrt: correctly rounded
template <typename V, typename Sqrt>
MTPX_ANYWHERE void normals(const Words<V> (&words)[4], const Sqrt& sqrt, V (&n)[4]) {
  for (int i = 0; i < 4; i += 2) {
    const V u = fma(real<V>(std::bit_cast<Ints<V>>(words[i] >> 1)), all<V>(0x1p-31F), all<V>(0x1p-32F));
    const V radius = sqrt(product(all<V>(-2), log_of_normal(u)));
    const Turned<V> angle(words[i + 1]);
    n[i] = product(radius, angle.cos);
    n[i + 1] = product(radius, angle.sin);
  }
}

}  // namespace mtpx::exact
