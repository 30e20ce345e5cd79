// C <= 32: a thread owns R rows i of one kernel b, keeps them and their sums in registers, and walks all rows j.
//
// A block is `slices` warps on the same 32 R rows. Rows j are staged in shared memory, channel by channel, and each
// warp takes every `slices`-th group of them; the warps' sums are added in order at the end. No atomics and an order
// of summation that depends on the shape alone: results are bitwise repeatable. A C between two widths runs as
// the wider one, whose extra channels are zeros: they add |0 - 0|.
#pragma once

#include "common/launch.cuh"
#include "minibatch_l1/pair.cuh"

namespace gankern::minibatch_l1 {

constexpr int lanes = 32;
constexpr int slices = 4;
constexpr int row_threads = lanes * slices;

// What a block stages: planes of M, then V, then G, each a run of `columns` rows j. A plane is followed by one unused
// group, which spreads the planes over the banks.
template <Order order, int C>
struct Staged {
  static constexpr int planes = order == Order::forward ? C : order == Order::backward ? C + 1 : 2 * C + 1;
  static constexpr int columns = planes <= 17 ? 256 : planes <= 33 ? 128 : 64;
  static constexpr int stride = columns + group;
  static constexpr int v = C, g = planes - 1;
  static constexpr size_t values = planes * stride;
};

// Rows per thread where there are rows enough for every processor: more of them share each staged value.
template <Order order, class T, int C>
constexpr int many_rows = std::is_same_v<T, double>  ? 1
                          : order == Order::forward  ? (C <= 8 ? 4 : 2)
                          : order == Order::backward ? (C <= 24 ? 2 : 1)
                                                     : (C <= 12 ? 2 : 1);

// Channels [0, C) of rows [first, first + columns) of kernel b, as planes; rows and channels past the end are zero.
template <class T, int C>
__device__ __forceinline__ void stage(T* planes, int stride, const Strided& x, int64_t b, int first, int columns, int n,
                                      int c) {
  with_element<T>(x, [&](auto element) {
    using S = decltype(element);
    const S* data = static_cast<const S*>(x.data) + b * x.stride_b;
    const int padded = (columns + group - 1) / group * group;
#pragma unroll 4
    for (int e = threadIdx.x; e < padded * C; e += row_threads) {
      const int j = e / C, k = e % C;
      const bool inside = first + j < n && k < c;
      planes[k * stride + j] = inside ? static_cast<T>(data[(first + j) * x.stride_n + k * x.stride_c]) : T(0);
    }
  });
}

template <Order order, class T, int C>
__device__ __forceinline__ void stage_all(T* tile, const Problem& p, int64_t b, int first, int columns) {
  using L = Staged<order, C>;
  const int c = static_cast<int>(p.c);
  stage<T, C>(tile, L::stride, p.m, b, first, columns, p.n, c);
  if constexpr (order == Order::double_backward) {
    stage<T, C>(tile + L::v * L::stride, L::stride, p.v, b, first, columns, p.n, c);
  }
  if constexpr (order != Order::forward) {
    stage<T, 1>(tile + L::g * L::stride, L::stride, p.g, b, first, columns, p.n, 1);
  }
}

// Begins channel c of a sweep. What one sweep over many channels loads, and the signs, would not fit the registers if
// they were fetched far ahead or carried over to the next sweep: ptxas does both, but not across a barrier.
template <int C>
__device__ __forceinline__ void begin_channel(int c) {
  if (C > 8 && c % 8 == 0) __syncwarp();
}

// What a thread knows of its rows, and their sums.
template <Order order, class T, int C, int R>
struct Rows {
  static constexpr bool with_g = order != Order::forward;
  static constexpr bool with_v = order == Order::double_backward;
  T m[R][C], v[with_v ? R : 1][C], g[R];
  T sum_n[R] = {}, sum_c[with_g ? R : 1][C] = {};
  static constexpr int sums = R * ((order != Order::backward) + (with_g ? C : 0));

  __device__ __forceinline__ void load(const T* tile, int lane) {
    using L = Staged<order, C>;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int at = lane + r * lanes;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        m[r][c] = tile[c * L::stride + at];
        if constexpr (with_v) v[r][c] = tile[(L::v + c) * L::stride + at];
      }
      if constexpr (with_g) g[r] = tile[L::g * L::stride + at];
    }
  }

  // One group of rows j, staged at `at`. At an edge, `i` is the first row of this thread, `j` that of the group.
  __device__ __forceinline__ void visit(const T* at, bool edge, int i, int j, int n, T (&partial)[R]) {
    using L = Staged<order, C>;
    T weight[R][group];
#pragma unroll
    for (int c = 0; c < C; ++c) {
      begin_channel<C>(c);
      const auto mj = Group<T>::load(at + c * L::stride);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int k = 0; k < group; ++k) {
          const T distance = magnitude(m[r][c] - mj[k]);
          weight[r][k] = c == 0 ? distance : weight[r][k] + distance;
        }
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int k = 0; k < group; ++k) weight[r][k] = exponential(-weight[r][k]);
    }
    if constexpr (with_v) multiply_by_q(at, weight);
    if constexpr (!with_g || with_v) {
      if (edge) drop_all(weight, i, j, n);
#pragma unroll
      for (int r = 0; r < R; ++r) partial[r] += total(weight[r]);
    }
    if constexpr (with_g) {
      const auto gj = Group<T>::load(at + L::g * L::stride);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int k = 0; k < group; ++k) weight[r][k] *= g[r] + gj[k];
      }
      if (edge) drop_all(weight, i, j, n);
#pragma unroll
      for (int c = 0; c < C; ++c) {
        begin_channel<C>(c);
        const auto mj = Group<T>::load(at + c * L::stride);
#pragma unroll
        for (int r = 0; r < R; ++r) sum_c[r][c] += signed_total(weight[r], m[r][c], mj);
      }
    }
  }

  // K becomes K q, q = sum_c (V_i - V_j) sgn(M_i - M_j).
  __device__ __forceinline__ void multiply_by_q(const T* at, T (&weight)[R][group]) {
    using L = Staged<order, C>;
    T q[R][group] = {};
#pragma unroll
    for (int c = 0; c < C; ++c) {
      begin_channel<C>(c);
      const auto mj = Group<T>::load(at + c * L::stride), vj = Group<T>::load(at + (L::v + c) * L::stride);
#pragma unroll
      for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int k = 0; k < group; ++k) q[r][k] += (v[r][c] - vj[k]) * sign(m[r][c], mj[k]);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
      for (int k = 0; k < group; ++k) weight[r][k] *= q[r][k];
    }
  }

  static __device__ __forceinline__ void drop_all(T (&weight)[R][group], int i, int j, int n) {
#pragma unroll
    for (int r = 0; r < R; ++r) drop(weight[r], i + r * lanes, j, n);
  }

  // Calls f with every sum and a number for it.
  template <class F>
  __device__ __forceinline__ void each_sum(F&& f) {
    int at = 0;
#pragma unroll
    for (int r = 0; r < R; ++r) {
      if constexpr (order != Order::backward) f(sum_n[r], at++);
      if constexpr (with_g) {
#pragma unroll
        for (int c = 0; c < C; ++c) f(sum_c[r][c], at++);
      }
    }
  }

  // Adds the sums of all warps, in order, into those of the first.
  __device__ __forceinline__ void add_slices(T* scratch, int lane, int slice) {
    for (int from = 1; from < slices; ++from) {
      __syncthreads();
      if (slice == from) each_sum([&](T& x, int at) { scratch[at * lanes + lane] = x; });
      __syncthreads();
      if (slice == 0) each_sum([&](T& x, int at) { x += scratch[at * lanes + lane]; });
    }
  }

  __device__ __forceinline__ void store(const Problem& p, int64_t b, int i) const {
    // dM is minus the sum in the backward, dG in the double backward.
    [[maybe_unused]] constexpr T sign_n = with_v ? T(-1) : T(1), sign_c = with_v ? T(1) : T(-1);
    [[maybe_unused]] const T self = order == Order::forward && p.include_self ? T(1) : T(0);
    with_element<T>(p.m, [&](auto element) {
      using S = decltype(element);
#pragma unroll
      for (int r = 0; r < R; ++r, i += lanes) {
        if (i >= p.n) break;
        if constexpr (order != Order::backward) {
          static_cast<S*>(p.out_n.data)[p.out_n.offset(i, b)] = static_cast<S>(sign_n * sum_n[r] + self);
        }
        if constexpr (with_g) {
#pragma unroll
          for (int c = 0; c < C; ++c) {
            if (c < p.c) static_cast<S*>(p.out_c.data)[p.out_c.offset(i, b, c)] = static_cast<S>(sign_c * sum_c[r][c]);
          }
        }
      }
    });
  }
};

template <Order order, class T, int C, int R>
__global__ void __launch_bounds__(row_threads, 1) row_kernel(const Problem p) {
  using L = Staged<order, C>;
  constexpr int height = lanes * R;
  static_assert(height <= L::columns && Rows<order, T, C, R>::sums * lanes <= L::values);
  T* tile = shared_memory<T, L::values>();
  const int lane = threadIdx.x % lanes, slice = threadIdx.x / lanes;
  const int64_t row_tiles = (int64_t(p.n) + height - 1) / height;
  for (int64_t work = blockIdx.x; work < row_tiles * p.b; work += gridDim.x) {
    const int64_t b = work / row_tiles;
    const int i0 = static_cast<int>(work % row_tiles) * height;
    Rows<order, T, C, R> rows;
    __syncthreads();
    stage_all<order, T, C>(tile, p, b, i0, height);
    __syncthreads();
    rows.load(tile, lane);
    for (int j0 = 0; j0 < p.n; j0 += L::columns) {
      const int columns = p.n - j0 < L::columns ? p.n - j0 : L::columns;
      __syncthreads();
      stage_all<order, T, C>(tile, p, b, j0, columns);
      __syncthreads();
      T partial[R] = {};
      for (int j = slice * group; j < columns; j += slices * group) {
        const int at = j0 + j;
        const bool edge = at + group > p.n || (at < i0 + height && at + group > i0);
        rows.visit(tile + j, edge, i0 + lane, at, p.n, partial);
      }
#pragma unroll
      for (int r = 0; r < R; ++r) rows.sum_n[r] += partial[r];
    }
    rows.add_slices(tile, lane, slice);
    if (slice == 0) rows.store(p, b, i0 + lane);
  }
}

}  // namespace gankern::minibatch_l1
