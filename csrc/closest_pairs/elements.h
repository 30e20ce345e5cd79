// Rows of any element type: their exact squared distance, and how they enter the filter. Included once per ISA.
#pragma once

#include "closest_pairs/core.h"
#include "common/simd.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

using closest_pairs::run;

typedef Vec<double> D;

constexpr int half_lanes = Simd<double>::lanes;

// Results round exactly as written: keeps the compiler from fusing the product into the sum.
GANKERN_INLINE D rounded(D x) {
#if defined(__x86_64__) && GANKERN_VECTOR_BYTES == 64
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#else
  asm("" : "+w"(x));
#endif
  return x;
}

template <class S>
struct Raw;
#define GANKERN_RAW(name, type)                                                                    \
  template <>                                                                                      \
  struct Raw<name> {                                                                               \
    typedef type V __attribute__((vector_size(sizeof(type) * half_lanes), aligned(1), may_alias)); \
    typedef type S;                                                                                \
  };
struct Half {};
struct Brain {};
GANKERN_RAW(float, float)
GANKERN_RAW(double, double)
GANKERN_RAW(Half, uint16_t)
GANKERN_RAW(Brain, uint16_t)
GANKERN_RAW(uint8_t, uint8_t)
#undef GANKERN_RAW

typedef uint32_t Word __attribute__((vector_size(4 * half_lanes), may_alias));
typedef float Single __attribute__((vector_size(4 * half_lanes), may_alias));

// half_lanes elements as float64, exactly (finite values).
template <class S>
GANKERN_INLINE D wide(const typename Raw<S>::S* p) {
  const auto x = *reinterpret_cast<const typename Raw<S>::V*>(p);
  if constexpr (__is_same(S, Brain)) {
    return __builtin_convertvector(reinterpret_cast<Single>(__builtin_convertvector(x, Word) << 16), D);
  } else if constexpr (__is_same(S, Half)) {
    const Word w = __builtin_convertvector(x, Word);
    const Single magnitude = reinterpret_cast<Single>((w & 0x7fff) << 13) * 0x1p112f;  // moves the exponent's bias
    return __builtin_convertvector(reinterpret_cast<Single>(reinterpret_cast<Word>(magnitude) | (w & 0x8000) << 16), D);
  } else {
    return __builtin_convertvector(x, D);
  }
}

constexpr int order = 16;  // lanes of the documented order of summation
constexpr int pieces = order / half_lanes;

GANKERN_INLINE double in_halves(const D (&sums)[pieces]) {
  alignas(64) double s[order];
  for (int p = 0; p < pieces; ++p) store(s + p * half_lanes, sums[p]);
  for (int half = order / 2; half > 0; half /= 2) {
    for (int l = 0; l < half; ++l) s[l] += s[l + half];
  }
  return s[0];
}

template <class S>
GANKERN_INLINE void add_squares(const typename Raw<S>::S* x, const typename Raw<S>::S* y, D (&sums)[pieces]) {
#pragma GCC unroll 8
  for (int p = 0; p < pieces; ++p) {
    const D difference = wide<S>(x + p * half_lanes) - wide<S>(y + p * half_lanes);
    sums[p] += rounded(difference * difference);
  }
}

// Sums of non-negative terms only grow, rounded too: a partial sum above the bound decides.
template <class S>
double squared_distance(const void* x_, const void* y_, int64_t d, double bound) {
  typedef typename Raw<S>::S E;
  const E* x = static_cast<const E*>(x_);
  const E* y = static_cast<const E*>(y_);
  D sums[pieces] = {};
  int64_t c = 0;
  while (c + order <= d) {
    const int64_t stop = d - c > run ? c + run : d;
    for (; c + order <= stop; c += order) add_squares<S>(x + c, y + c, sums);
    const double partial = in_halves(sums);
    if (partial > bound) return partial;
  }
  if (c < d) {
    E left[order] = {}, right[order] = {};
    for (int64_t l = 0; l < d - c; ++l) left[l] = x[c + l], right[l] = y[c + l];
    add_squares<S>(left, right, sums);
  }
  return in_halves(sums);
}

template <class S>
double centre(const void* x_, const double* centre, double scale, int64_t d, float* w) {
  typedef typename Raw<S>::S E;
  constexpr int step = half_lanes;
  typedef double Loose __attribute__((vector_size(8 * step), aligned(8), may_alias));
  typedef float Out __attribute__((vector_size(4 * step), aligned(4), may_alias));
  const E* x = static_cast<const E*>(x_);
  D total[2] = {};
  int64_t c = 0;
  const auto one = [&](const E* from, const double* middle, float* to, D& sum) __attribute__((always_inline)) {
    const D y = (wide<S>(from) - *reinterpret_cast<const Loose*>(middle)) * scale;
    sum += y * y;
    *reinterpret_cast<Out*>(to) = __builtin_convertvector(y, Out);
  };
  for (; c + 2 * step <= d; c += 2 * step) {
    one(x + c, centre + c, w + c, total[0]);
    one(x + c + step, centre + c + step, w + c + step, total[1]);
  }
  for (; c < d; c += step) {
    const int64_t used = d - c < step ? d - c : step;
    E from[step] = {};
    double middle[step] = {};
    float to[step];
    for (int64_t l = 0; l < used; ++l) from[l] = x[c + l], middle[l] = centre[c + l];
    one(from, middle, to, total[0]);
    for (int64_t l = 0; l < used; ++l) w[c + l] = to[l];
  }
  double sum = 0;
  for (int l = 0; l < step; ++l) sum += total[0][l] + total[1][l];
  return sum;
}

}  // namespace
}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
