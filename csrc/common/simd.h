// Vectors of one register, on the compiler's vector extension: the same source for every instruction set.
//
// Included only by files compiled once per ISA. Everything lives in an anonymous namespace inside the ISA's own,
// so that an object holds no weak symbol that the linker could merge with another ISA's (that would be SIGILL on
// an older processor). For the same reason no std template may be used in such files.
#pragma once

#include <cstdint>

#if !defined(GANKERN_ISA_NAMESPACE) || !defined(GANKERN_VECTOR_BYTES)
#error "simd.h belongs to files that CMake compiles once per ISA"
#endif

#define GANKERN_INLINE inline __attribute__((always_inline))

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

template <class T>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int lanes = GANKERN_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias));
  typedef int32_t I __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias));
  static constexpr int32_t sign_bit = INT32_MIN;
};

template <>
struct Simd<double> {
  static constexpr int lanes = GANKERN_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias));
  typedef int64_t I __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias));
  static constexpr int64_t sign_bit = INT64_MIN;
};

template <class T>
using Vec = typename Simd<T>::V;
template <class T>
using Int = typename Simd<T>::I;

// Packed buffers are aligned to a whole vector.
template <class T>
GANKERN_INLINE Vec<T> load(const T* p) {
  return *reinterpret_cast<const Vec<T>*>(p);
}

template <class T>
GANKERN_INLINE void store(T* p, Vec<T> x) {
  *reinterpret_cast<Vec<T>*>(p) = x;
}

template <class T>
GANKERN_INLINE Vec<T> splat(T x) {
  return x - Vec<T>{};
}

// Lane l of the result is lane lanes[l] of x.
template <class T>
GANKERN_INLINE Vec<T> permute(Vec<T> x, Int<T> lanes) {
#if defined(__clang__)
  Vec<T> result;
  for (int l = 0; l < Simd<T>::lanes; ++l) result[l] = x[lanes[l]];
  return result;
#else
  return __builtin_shuffle(x, lanes);
#endif
}

template <class T>
GANKERN_INLINE Vec<T> absolute(Vec<T> x) {
  return reinterpret_cast<Vec<T>>(reinterpret_cast<Int<T>>(x) & ~(Simd<T>::sign_bit - Int<T>{}));
}

// -1, 0 or 1 with the sign of x; 0 for +-0. A NaN gives +-1, so that multiplying a NaN weight by it stays NaN.
template <class T>
GANKERN_INLINE Vec<T> sign(Vec<T> x) {
  const Int<T> one = reinterpret_cast<Int<T>>(splat<T>(1));
  const Int<T> signed_one = (reinterpret_cast<Int<T>>(x) & (Simd<T>::sign_bit - Int<T>{})) | one;
  return reinterpret_cast<Vec<T>>(signed_one & reinterpret_cast<Int<T>>(x != Vec<T>{}));
}

// exp(-d) for d >= 0 (0 for +inf, NaN for NaN): 2^n p(r) with n = round(-d log2 e) and a Taylor polynomial on
// |r| <= ln(2)/2. The polynomial carries a factor 2^-B and the scale 2^(n+B), so that the last product alone
// rounds a subnormal result. Adding the constant `shift` leaves n + B + exponent bias in the low mantissa bits.
GANKERN_INLINE Vec<float> exp_negative(Vec<float> d) {
  typedef Vec<float> V;
  const float shift = 12582912.0f + 191.0f;  // 1.5 * 2^23 + (64 + 127)
  const float down = 0x1p-64f;
  const V x = -(d > 105.0f ? splat<float>(105.0f) : d);
  const V t = x * 0x1.715476p+0f + shift;
  const V n = t - shift;
  const V r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  const V scale = reinterpret_cast<V>(reinterpret_cast<Int<float>>(t) << 23);
  V p = r * (down / 5040.0f) + (down / 720.0f);
  p = p * r + (down / 120.0f);
  p = p * r + (down / 24.0f);
  p = p * r + (down / 6.0f);
  p = p * r + (down / 2.0f);
  p = p * r + down;
  p = p * r + down;
  return p * scale;
}

GANKERN_INLINE Vec<double> exp_negative(Vec<double> d) {
  typedef Vec<double> V;
  const double shift = 6755399441055744.0 + 1279.0;  // 1.5 * 2^52 + (256 + 1023)
  const double down = 0x1p-256;
  const V x = -(d > 750.0 ? splat<double>(750.0) : d);
  const V t = x * 0x1.71547652b82fep+0 + shift;
  const V n = t - shift;
  const V r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  const V scale = reinterpret_cast<V>(reinterpret_cast<Int<double>>(t) << 52);
  V p = r * (down / 6227020800.0) + (down / 479001600.0);
  p = p * r + (down / 39916800.0);
  p = p * r + (down / 3628800.0);
  p = p * r + (down / 362880.0);
  p = p * r + (down / 40320.0);
  p = p * r + (down / 5040.0);
  p = p * r + (down / 720.0);
  p = p * r + (down / 120.0);
  p = p * r + (down / 24.0);
  p = p * r + (down / 6.0);
  p = p * r + (down / 2.0);
  p = p * r + down;
  p = p * r + down;
  return p * scale;
}

}  // namespace
}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
