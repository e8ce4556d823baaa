#pragma once
// The processor's own instructions that the host's kernels ask for by name. <immintrin.h> declares them, and
// 6 000 more: to read it takes a compiler a third of a second and 90 MB in every file. So the compilers' own
// names are used where they are known.

#if defined(__SSE2__) && !defined(__CUDACC__)

#include <cstdint>
#include <cstring>

// A compiler knows those of the instructions that its flags allow.
#if defined(__has_builtin) && !defined(__AVX512F__)
#if !defined(__AVX__)
#if __has_builtin(__builtin_ia32_sqrtps) && __has_builtin(__builtin_ia32_sqrtpd) && \
    __has_builtin(__builtin_ia32_pmuludq128)
#define MTPX_BUILTIN_INSTRUCTIONS
#endif
#elif __has_builtin(__builtin_ia32_sqrtps256) && __has_builtin(__builtin_ia32_sqrtpd256)
#if !defined(__FMA__) || \
    (__has_builtin(__builtin_ia32_vfmaddps256) && __has_builtin(__builtin_ia32_vfmaddpd256))
#if !defined(__AVX2__) || __has_builtin(__builtin_ia32_pmuludq256)
#define MTPX_BUILTIN_INSTRUCTIONS
#endif
#endif
#endif
#endif
#ifndef MTPX_BUILTIN_INSTRUCTIONS
#include <immintrin.h>
#endif

namespace mtpx::processor {

#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
#elif defined(__AVX__)
inline constexpr int register_bytes = 32;
#else
inline constexpr int register_bytes = 16;
#endif

typedef float Floats __attribute__((vector_size(register_bytes)));
typedef double Doubles __attribute__((vector_size(register_bytes)));
typedef int Ints __attribute__((vector_size(register_bytes)));
typedef long long LongWords __attribute__((vector_size(register_bytes)));
typedef signed char Bytes __attribute__((vector_size(register_bytes / 4)));
typedef char Letters __attribute__((vector_size(16)));
typedef short Shorts __attribute__((vector_size(16)));

// The square root of every element, correctly rounded. With AVX-512 in its masked form, because g++ 12 warns
// of the undefined source that it gives the plain one; products of words for the same reason.
#if defined(__AVX512F__)
inline Floats sqrt(Floats v) { return Floats(_mm512_mask_sqrt_ps(__m512(v), __mmask16(0xffff), __m512(v))); }
inline Doubles sqrt(Doubles v) {
  return Doubles(_mm512_mask_sqrt_pd(__m512d(v), __mmask8(0xff), __m512d(v)));
}
#elif defined(MTPX_BUILTIN_INSTRUCTIONS) && defined(__AVX__)
inline Floats sqrt(Floats v) { return __builtin_ia32_sqrtps256(v); }
inline Doubles sqrt(Doubles v) { return __builtin_ia32_sqrtpd256(v); }
#elif defined(MTPX_BUILTIN_INSTRUCTIONS)
inline Floats sqrt(Floats v) { return __builtin_ia32_sqrtps(v); }
inline Doubles sqrt(Doubles v) { return __builtin_ia32_sqrtpd(v); }
#elif defined(__AVX__)
inline Floats sqrt(Floats v) { return Floats(_mm256_sqrt_ps(__m256(v))); }
inline Doubles sqrt(Doubles v) { return Doubles(_mm256_sqrt_pd(__m256d(v))); }
#else
inline Floats sqrt(Floats v) { return Floats(_mm_sqrt_ps(__m128(v))); }
inline Doubles sqrt(Doubles v) { return Doubles(_mm_sqrt_pd(__m128d(v))); }
#endif

// a * b + c of every element, rounded once.
#if defined(__AVX512F__)
inline Floats fma(Floats a, Floats b, Floats c) {
  return Floats(_mm512_fmadd_ps(__m512(a), __m512(b), __m512(c)));
}
inline Doubles fma(Doubles a, Doubles b, Doubles c) {
  return Doubles(_mm512_fmadd_pd(__m512d(a), __m512d(b), __m512d(c)));
}
#elif defined(__FMA__) && defined(MTPX_BUILTIN_INSTRUCTIONS)
inline Floats fma(Floats a, Floats b, Floats c) { return __builtin_ia32_vfmaddps256(a, b, c); }
inline Doubles fma(Doubles a, Doubles b, Doubles c) { return __builtin_ia32_vfmaddpd256(a, b, c); }
#elif defined(__FMA__)
inline Floats fma(Floats a, Floats b, Floats c) {
  return Floats(_mm256_fmadd_ps(__m256(a), __m256(b), __m256(c)));
}
inline Doubles fma(Doubles a, Doubles b, Doubles c) {
  return Doubles(_mm256_fmadd_pd(__m256d(a), __m256d(b), __m256d(c)));
}
#endif

// The products of the lower halves of 64-bit words.
#if defined(__AVX512F__)
inline LongWords low_products(LongWords a, LongWords b) {
  return LongWords(_mm512_maskz_mul_epu32(0xff, (__m512i)a, (__m512i)b));
}
#elif defined(__AVX2__) && defined(MTPX_BUILTIN_INSTRUCTIONS)
inline LongWords low_products(LongWords a, LongWords b) {
  return LongWords(__builtin_ia32_pmuludq256(Ints(a), Ints(b)));
}
#elif defined(__AVX2__)
inline LongWords low_products(LongWords a, LongWords b) {
  return LongWords(_mm256_mul_epu32((__m256i)a, (__m256i)b));
}
#elif !defined(__AVX__) && defined(MTPX_BUILTIN_INSTRUCTIONS)
inline LongWords low_products(LongWords a, LongWords b) {
  return LongWords(__builtin_ia32_pmuludq128(Ints(a), Ints(b)));
}
#elif !defined(__AVX__)
inline LongWords low_products(LongWords a, LongWords b) {
  return LongWords(_mm_mul_epu32((__m128i)a, (__m128i)b));
}
#else
inline LongWords low_products(LongWords a, LongWords b) { return (a & 0xffffffff) * (b & 0xffffffff); }
#endif

// Bytes as whole numbers, with their signs: g++ 12 makes nothing good of __builtin_convertvector, and SSE2
// has nothing that widens with the sign.
inline Ints widen(const std::int8_t* from) {
#if defined(__AVX512F__)
  std::int64_t two[2];
  std::memcpy(two, from, sizeof two);
  return Ints(_mm512_maskz_cvtepi8_epi32(__mmask16(0xffff), _mm_set_epi64x(two[1], two[0])));
#elif defined(__clang__) || (defined(__AVX__) && !defined(__AVX2__))
  Bytes bytes;
  std::memcpy(&bytes, from, sizeof bytes);
  return __builtin_convertvector(bytes, Ints);
#else
  Letters n = {};
  std::memcpy(&n, from, register_bytes / 4);
#if defined(__AVX2__) && defined(MTPX_BUILTIN_INSTRUCTIONS)
  return Ints(__builtin_ia32_pmovsxbd256(n));
#elif defined(__AVX2__)
  return Ints(_mm256_cvtepi8_epi32((__m128i)n));
#elif defined(MTPX_BUILTIN_INSTRUCTIONS)
  const Shorts pairs = Shorts(__builtin_ia32_punpcklbw128(n, n));
  return Ints(__builtin_ia32_punpcklwd128(pairs, pairs)) >> 24;
#else
  const __m128i pairs = _mm_unpacklo_epi8((__m128i)n, (__m128i)n);
  return Ints(_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24));
#endif
#endif
}

}  // namespace mtpx::processor

#endif
