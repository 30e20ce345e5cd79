#include "spectral_norm/core.h"

#include "common/simd.h"

// Weights come from the user, so nothing here is aligned: sizes and strides are any.

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

// Sums run in float over so many columns, and in double over these pieces.
constexpr int64_t piece = 4096;

template <class T>
struct Unaligned {
  Vec<T> x;
} __attribute__((packed, may_alias));

template <class T>
GANKERN_INLINE Vec<T> loadu(const T* p) {
  return reinterpret_cast<const Unaligned<T>*>(p)->x;
}

template <class T>
GANKERN_INLINE void storeu(T* p, Vec<T> x) {
  reinterpret_cast<Unaligned<T>*>(p)->x = x;
}

// p is aligned to a whole vector.
template <class T>
GANKERN_INLINE void stream_store(T* p, Vec<T> x) {
#if defined(__x86_64__) && GANKERN_VECTOR_BYTES == 64
  __builtin_ia32_movntps512(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(x));
#elif defined(__x86_64__) && GANKERN_VECTOR_BYTES == 32
  __builtin_ia32_movntps256(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(x));
#elif defined(__x86_64__)
  __builtin_ia32_movntps(reinterpret_cast<float*>(p), reinterpret_cast<Vec<float>>(x));
#else
  store(p, x);
#endif
}

GANKERN_INLINE void stream_fence() {
#if defined(__x86_64__)
  __builtin_ia32_sfence();
#endif
}

template <class T>
GANKERN_INLINE double horizontal(Vec<T> x) {
  double sum = 0;
#pragma GCC unroll 16
  for (int k = 0; k < Simd<T>::lanes; ++k) sum += static_cast<double>(x[k]);
  return sum;
}

// Elements ahead of a load at which a stream that is read once is fetched, past all caches but the nearest.
constexpr int64_t ahead = 512;

// sum_k a_k b_k for R rows a, which share the loads of b. `once`: b is not read again.
template <class T, int R, int U, bool once = false>
GANKERN_INLINE void dot_rows(const T* a, int64_t stride, const T* b, int64_t count, double* sums) {
  constexpr int W = Simd<T>::lanes;
  for (int r = 0; r < R; ++r) sums[r] = 0;
  for (int64_t k0 = 0; k0 < count; k0 += piece) {
    const int64_t end = count - k0 < piece ? count : k0 + piece;
    Vec<T> part[R * U] = {};
    int64_t k = k0;
    for (; k + U * W <= end; k += U * W) {
#pragma GCC unroll 8
      for (int i = 0; i < U; ++i) {
        if (once) __builtin_prefetch(b + k + i * W + ahead, 0, 0);
        const Vec<T> y = loadu(b + k + i * W);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) part[r * U + i] += loadu(a + r * stride + k + i * W) * y;
      }
    }
    for (; k + W <= end; k += W) {
      const Vec<T> y = loadu(b + k);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) part[r * U] += loadu(a + r * stride + k) * y;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      Vec<T> sum = part[r * U];
#pragma GCC unroll 8
      for (int i = 1; i < U; ++i) sum += part[r * U + i];
      double tail = horizontal<T>(sum);
      for (int64_t j = k; j < end; ++j) tail += static_cast<double>(a[r * stride + j]) * static_cast<double>(b[j]);
      sums[r] += tail;
    }
  }
}

// z += sum_r y_r W_r for R rows. `fetch` gets the next rows into the nearest cache meanwhile.
template <class T, int R, bool fetch>
GANKERN_INLINE void add_rows(const T* w, int64_t stride, int64_t columns, const T* y, T* z) {
  constexpr int W = Simd<T>::lanes;
  int64_t k = 0;
  for (; k + W <= columns; k += W) {
#pragma GCC unroll 8
    for (int r = 0; fetch && r < R; ++r) __builtin_prefetch(w + (R + r) * stride + k);
    Vec<T> sum = y[0] * loadu(w + k);
#pragma GCC unroll 8
    for (int r = 1; r < R; ++r) sum += y[r] * loadu(w + r * stride + k);
    storeu(z + k, loadu(z + k) + sum);
  }
  for (; k < columns; ++k) {
    T sum = y[0] * w[k];
    for (int r = 1; r < R; ++r) sum += y[r] * w[r * stride + k];
    z[k] += sum;
  }
}

// As Kernels::multiply, R rows at a time; returns the number of rows done.
template <class T, int R, int U, bool fetch>
int64_t multiply_blocks(const T* w, int64_t stride, int64_t rows, int64_t columns, const T* v, T* y, T* z) {
  double sums[R];
  int64_t r = 0;
  for (; r + R <= rows; r += R) {
    dot_rows<T, R, U>(w + r * stride, stride, v, columns, sums);
    for (int i = 0; i < R; ++i) y[r + i] = static_cast<T>(sums[i]);
    if (z != nullptr) add_rows<T, R, fetch>(w + r * stride, stride, columns, y + r, z);
  }
  return r;
}

template <class T>
void multiply(const T* w, int64_t stride, int64_t rows, int64_t columns, const T* v, T* y, T* z) {
  // What the nearest cache holds of them, beside v and z: two blocks of four rows, two of two, or none.
  const int64_t bytes = columns * static_cast<int64_t>(sizeof(T));
  const int64_t r = bytes <= 5120    ? multiply_blocks<T, 4, 2, true>(w, stride, rows, columns, v, y, z)
                    : bytes <= 10240 ? multiply_blocks<T, 2, 4, true>(w, stride, rows, columns, v, y, z)
                                     : multiply_blocks<T, 4, 2, false>(w, stride, rows, columns, v, y, z);
  multiply_blocks<T, 1, 8, false>(w + r * stride, stride, rows - r, columns, v, y + r, z);
}

template <class T>
double dot(const T* a, const T* b, int64_t count, bool stream) {
  double sum;
  if (stream) {
    dot_rows<T, 1, 8, true>(a, 0, b, count, &sum);
  } else {
    dot_rows<T, 1, 8>(a, 0, b, count, &sum);
  }
  return sum;
}

template <class T>
double square(const T* x, int64_t count) {
  constexpr int lanes = 32;
  double sums[lanes] = {};
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    for (int l = 0; l < lanes; ++l) sums[l] += static_cast<double>(x[k + l]) * static_cast<double>(x[k + l]);
  }
  for (int l = 0; k < count; ++k, ++l) sums[l] += static_cast<double>(x[k]) * static_cast<double>(x[k]);
  double sum = 0;
  for (int l = 0; l < lanes; ++l) sum += sums[l];
  return sum;
}

template <class T>
void divide_exactly(T* out, const T* x, int64_t count, double divisor) {
  for (int64_t k = 0; k < count; ++k) out[k] = static_cast<T>(static_cast<double>(x[k]) / divisor);
}

// Applies f to every element: f(k, Vec<T>) loads from its inputs at k; f(k, T) is the same for one element.
template <class T, class F>
GANKERN_INLINE void each(T* out, int64_t count, bool stream, const F& f) {
  constexpr int W = Simd<T>::lanes;
  int64_t k = 0;
  const int64_t misaligned = static_cast<int64_t>(reinterpret_cast<uintptr_t>(out) % GANKERN_VECTOR_BYTES / sizeof(T));
  if (stream && count >= 4 * W) {
    for (; k < (misaligned ? W - misaligned : 0); ++k) out[k] = f.one(k);
    for (; k + 4 * W <= count; k += 4 * W) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        f.fetch(k + i * W + ahead);
        stream_store(out + k + i * W, f.many(k + i * W));
      }
    }
    stream_fence();
  }
  for (; k + W <= count; k += W) storeu(out + k, f.many(k));
  for (; k < count; ++k) out[k] = f.one(k);
}

template <class T>
struct Divide {
  const T* x;
  T divisor;
  GANKERN_INLINE void fetch(int64_t k) const { __builtin_prefetch(x + k, 0, 0); }
  GANKERN_INLINE Vec<T> many(int64_t k) const { return loadu(x + k) / splat<T>(divisor); }
  GANKERN_INLINE T one(int64_t k) const { return x[k] / divisor; }
};

template <class T>
struct Combine {
  const T *x, *y;
  T alpha, beta;
  GANKERN_INLINE void fetch(int64_t k) const { __builtin_prefetch(x + k, 0, 0); }
  GANKERN_INLINE Vec<T> many(int64_t k) const { return alpha * loadu(x + k) + beta * loadu(y + k); }
  GANKERN_INLINE T one(int64_t k) const { return alpha * x[k] + beta * y[k]; }
};

template <class T>
void divide(T* out, const T* x, int64_t count, T divisor, bool stream) {
  each<T>(out, count, stream, Divide<T>{x, divisor});
}

template <class T>
void combine(T* out, const T* x, T alpha, const T* y, T beta, int64_t count, bool stream) {
  each<T>(out, count, stream, Combine<T>{x, y, alpha, beta});
}

template <class T>
constexpr spectral_norm::Kernels<T> table = {multiply<T>, dot<T>, square<T>, divide_exactly<T>, divide<T>, combine<T>};

}  // namespace

extern const spectral_norm::Kernels<float> spectral_norm_float;
extern const spectral_norm::Kernels<double> spectral_norm_double;
const spectral_norm::Kernels<float> spectral_norm_float = table<float>;
const spectral_norm::Kernels<double> spectral_norm_double = table<double>;

}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
