// Any C: a thread owns one row i and no more than a group of pairs, whatever C is.
//
// M and V are transposed once to [B][C][padded N], so that the lanes of a warp read neighbouring rows and a group of
// rows j is one aligned load. Sums over j of dM live in memory, [B][C][padded N] too, where each thread alone adds to
// its row: deterministic, with O(N B C) memory.
#pragma once

#include "common/launch.cuh"
#include "minibatch_l1/pair.cuh"

namespace gankern::minibatch_l1 {

constexpr int wide_threads = 64;
constexpr int side = 32;  // of a tile that is transposed
constexpr int transpose_threads = 4 * side;
constexpr size_t transpose_values = side * (side + 1);

static inline __host__ __device__ int64_t padded_rows(int64_t n) { return (n + group - 1) / group * group; }

static inline __host__ __device__ int64_t transpose_tiles(int64_t rows, int64_t n) {
  return ((rows + side - 1) / side) * ((n + side - 1) / side);
}

// x (N, B, C) to packed [B * C][padded N], or back with a sign; rows past N become zero. `c` is 1 for (N, B).
template <class T, bool back>
__global__ void __launch_bounds__(transpose_threads)
    transpose_kernel(const Strided x, T* packed, int64_t n, int64_t b, int64_t c, T scale) {
  T* tile = shared_memory<T, transpose_values>();
  const int x_lane = threadIdx.x % side, y_lane = threadIdx.x / side;
  const int64_t columns = padded_rows(n), rows = b * c;
  const int64_t across = (columns + side - 1) / side;
  for (int64_t work = blockIdx.x; work < transpose_tiles(rows, columns); work += gridDim.x) {
    const int64_t i0 = work % across * side, q0 = work / across * side;
    __syncthreads();
    if constexpr (back) {
      for (int y = y_lane; y < side; y += transpose_threads / side) {
        if (q0 + y < rows && i0 + x_lane < n) tile[y * (side + 1) + x_lane] = packed[(q0 + y) * columns + i0 + x_lane];
      }
    } else {
      with_element<T>(x, [&](auto element) {
        using S = decltype(element);
        for (int y = y_lane; y < side; y += transpose_threads / side) {
          const int64_t i = i0 + y, q = q0 + x_lane;
          const bool inside = i < n && q < rows;
          tile[x_lane * (side + 1) + y] =
              inside ? static_cast<T>(static_cast<const S*>(x.data)[x.offset(i, q / c, q % c)]) : T(0);
        }
      });
    }
    __syncthreads();
    if constexpr (back) {
      with_element<T>(x, [&](auto element) {
        using S = decltype(element);
        for (int y = y_lane; y < side; y += transpose_threads / side) {
          const int64_t i = i0 + y, q = q0 + x_lane;
          if (i >= n || q >= rows) continue;
          static_cast<S*>(x.data)[x.offset(i, q / c, q % c)] = static_cast<S>(scale * tile[x_lane * (side + 1) + y]);
        }
      });
    } else {
      for (int y = y_lane; y < side; y += transpose_threads / side) {
        const int64_t q = q0 + y, i = i0 + x_lane;
        if (q < rows && i < columns) packed[q * columns + i] = tile[y * (side + 1) + x_lane];
      }
    }
  }
}

// The packed tensors of a problem: m, v and sum_c [B][C][padded N], g [B][padded N].
template <class T>
struct Wide {
  const T* m = nullptr;
  const T* g = nullptr;
  const T* v = nullptr;
  T* sum_c = nullptr;
};

template <Order order, class T>
__global__ void __launch_bounds__(wide_threads) wide_kernel(const Problem p, const Wide<T> w) {
  constexpr bool with_g = order != Order::forward, with_v = order == Order::double_backward;
  const int64_t columns = padded_rows(p.n);
  const int64_t tiles = (int64_t(p.n) + wide_threads - 1) / wide_threads;
  for (int64_t work = blockIdx.x; work < tiles * p.b; work += gridDim.x) {
    const int64_t b = work / tiles;
    const int64_t i = work % tiles * wide_threads + threadIdx.x;
    if (i >= p.n) continue;
    const T* m = w.m + b * p.c * columns;
    const T* v = with_v ? w.v + b * p.c * columns : nullptr;
    const T* g = with_g ? w.g + b * columns : nullptr;
    T* sum_c = with_g ? w.sum_c + b * p.c * columns : nullptr;
    T sum_n = 0;
    for (int j = 0; j < p.n; j += group) {
      T weight[group] = {};
      for (int64_t c = 0; c < p.c; ++c) {
        const T mi = m[c * columns + i];
        const auto mj = Group<T>::load(m + c * columns + j);
#pragma unroll
        for (int k = 0; k < group; ++k) weight[k] += magnitude(mi - mj[k]);
      }
#pragma unroll
      for (int k = 0; k < group; ++k) weight[k] = exponential(-weight[k]);
      if constexpr (with_v) {
        T q[group] = {};
        for (int64_t c = 0; c < p.c; ++c) {
          const T mi = m[c * columns + i], vi = v[c * columns + i];
          const auto mj = Group<T>::load(m + c * columns + j), vj = Group<T>::load(v + c * columns + j);
#pragma unroll
          for (int k = 0; k < group; ++k) q[k] += (vi - vj[k]) * sign(mi, mj[k]);
        }
#pragma unroll
        for (int k = 0; k < group; ++k) weight[k] *= q[k];
      }
      if constexpr (!with_g || with_v) {
        drop(weight, static_cast<int>(i), j, p.n);
        sum_n += total(weight);
      }
      if constexpr (with_g) {
        const auto gj = Group<T>::load(g + j);
#pragma unroll
        for (int k = 0; k < group; ++k) weight[k] *= g[i] + gj[k];
        drop(weight, static_cast<int>(i), j, p.n);
        for (int64_t c = 0; c < p.c; ++c) {
          const T more = signed_total(weight, m[c * columns + i], Group<T>::load(m + c * columns + j));
          T* sum = sum_c + c * columns + i;
          *sum = j == 0 ? more : *sum + more;
        }
      }
    }
    if constexpr (order != Order::backward) {
      const T self = order == Order::forward && p.include_self ? T(1) : T(0);
      with_element<T>(p.m, [&](auto element) {
        using S = decltype(element);
        static_cast<S*>(p.out_n.data)[p.out_n.offset(i, b)] = static_cast<S>((with_v ? -sum_n : sum_n) + self);
      });
    }
  }
}

}  // namespace gankern::minibatch_l1
