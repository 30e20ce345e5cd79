// Vector loops over rows, for the files that are compiled once per ISA.
//
// Every product is rounded by itself, as plain torch rounds it: CMake compiles the ops on rows without contraction to
// fused multiply-adds. Sums of subnormal numbers are exact, so that subnormal results are plain torch's, bit for bit;
// memory bandwidth hides the additional instructions.
#pragma once

#include "common/simd.h"

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

// Rows of a tensor start anywhere.
template <class T>
struct Unaligned;
template <>
struct Unaligned<float> {
  typedef float V __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias, aligned(4)));
};
template <>
struct Unaligned<double> {
  typedef double V __attribute__((vector_size(GANKERN_VECTOR_BYTES), may_alias, aligned(8)));
};

template <class T>
GANKERN_INLINE Vec<T> load_any(const T* p) {
  return *reinterpret_cast<const typename Unaligned<T>::V*>(p);
}

template <class T>
GANKERN_INLINE void store_any(T* p, Vec<T> x) {
  *reinterpret_cast<typename Unaligned<T>::V*>(p) = x;
}

// out[d] = term(d) for vectors and for single elements.
template <class T, class F>
GANKERN_INLINE void fill(T* out, int64_t count, const F& term) {
  constexpr int W = Simd<T>::lanes;
  int64_t d = 0;
  for (; d + W <= count; d += W) store_any(out + d, term.vector(d));
  for (; d < count; ++d) out[d] = term.element(d);
}

// Terms of the sum of c[k] x[k], k < N.
template <class T, int N>
struct Combination {
  const T* const* x;
  const T* c;
  GANKERN_INLINE Vec<T> vector(int64_t d) const {
    Vec<T> sum = c[0] * load_any(x[0] + d);
#pragma GCC unroll 4
    for (int k = 1; k < N; ++k) sum += c[k] * load_any(x[k] + d);
    return sum;
  }
  GANKERN_INLINE T element(int64_t d) const {
    T sum = c[0] * x[0][d];
    for (int k = 1; k < N; ++k) sum += c[k] * x[k][d];
    return sum;
  }
};

// The sum over a block of term(d) for vectors and for single elements: four chains, then one fixed order.
template <class T, class F>
GANKERN_INLINE double reduce(int64_t count, const F& term) {
  constexpr int W = Simd<T>::lanes;
  Vec<T> sum[4] = {};
  int64_t d = 0;
  for (; d + 4 * W <= count; d += 4 * W) {
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] += term.vector(d + k * W);
  }
  for (; d + W <= count; d += W) sum[0] += term.vector(d);
  const Vec<T> all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  double total = 0;
  for (int l = 0; l < W; ++l) total += all[l];
  for (; d < count; ++d) total += term.element(d);
  return total;
}

}  // namespace
}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
