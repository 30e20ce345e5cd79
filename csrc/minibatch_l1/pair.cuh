// The arithmetic of pairs of rows, shared by the register kernels (rows.cuh) and those for any C (wide.cuh).
#pragma once

#include <cuda_runtime.h>

#include "common/strided.cuh"

namespace gankern::minibatch_l1 {

enum class Order { forward, backward, double_backward };

struct Problem {
  int n = 0;             // rows (samples)
  int64_t b = 0, c = 0;  // kernels and their dimension
  bool include_self = false;
  Strided m;      // M  (N, B, C)
  Strided g;      // upstream gradient G  (N, B); backward and double backward
  Strided v;      // cotangent V of dM  (N, B, C); double backward
  Strided out_n;  // o or dG  (N, B); forward and double backward
  Strided out_c;  // dM  (N, B, C); backward and double backward
};

// Rows j that are handled together; one aligned load brings a value of each.
constexpr int group = 4;

template <class T>
struct alignas(16) Group {
  T x[group];

  static __device__ __forceinline__ Group load(const T* p) { return *reinterpret_cast<const Group*>(p); }
  __device__ __forceinline__ T operator[](int k) const { return x[k]; }
};

static __device__ __forceinline__ float magnitude(float x) { return fabsf(x); }
static __device__ __forceinline__ double magnitude(double x) { return fabs(x); }
static __device__ __forceinline__ float exponential(float x) { return expf(x); }
static __device__ __forceinline__ double exponential(double x) { return exp(x); }

// sgn(a - b), 0 for a tie and for NaN: weights are multiplied by it, never selected, so that a weight that is NaN
// (a NaN in any c) stays NaN for every c, ties included, and an infinite one on a tie gives NaN.
template <class T>
__device__ __forceinline__ T sign(T a, T b) {
  return (a > b ? T(1) : T(0)) - (a < b ? T(1) : T(0));
}

// Removes pairs that are none: a row with itself, and columns past the end.
template <class T>
__device__ __forceinline__ void drop(T (&weight)[group], int i, int j, int n) {
#pragma unroll
  for (int k = 0; k < group; ++k) {
    if (j + k == i || j + k >= n) weight[k] = T(0);
  }
}

template <class T>
__device__ __forceinline__ T total(const T (&x)[group]) {
  return (x[0] + x[1]) + (x[2] + x[3]);
}

// sum_k w_k sgn(a - b_k)
template <class T>
__device__ __forceinline__ T signed_total(const T (&weight)[group], T a, const Group<T>& b) {
  T sum = weight[0] * sign(a, b[0]);
#pragma unroll
  for (int k = 1; k < group; ++k) sum += weight[k] * sign(a, b[k]);
  return sum;
}

}  // namespace gankern::minibatch_l1
