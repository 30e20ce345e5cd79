// The arithmetic of a pair of row tiles, for one vector of kernels. Included by core.cpp alone, once per ISA.
#pragma once

#include "common/simd.h"

// K_ijb and q_ijb are symmetric and sgn(M_ibc - M_jbc) is antisymmetric: a pair is visited once and gives to both
// rows.

namespace gankern {
namespace GANKERN_ISA_NAMESPACE {
namespace {

// Rows i that share each load of row j, and columns j that go through a phase together: exp is a long chain of
// dependent instructions, so many of them must be under way at once.
constexpr int block_rows = 2;
constexpr int block_columns = 8;

// Elements c whose row sums are kept in registers at a time.
constexpr int chunk = GANKERN_VECTOR_BYTES == 64 ? 4 : 2;

// The rows of one tile: inputs, and sums local to the pair of tiles.
template <class T>
struct Side {
  const T* m;
  const T* g;
  const T* v;
  T* sum_n;
  T* sum_c;
  int64_t rows;
};

enum class Shape { full, above_diagonal, diagonal };

// Tiles i and j. Of equal tiles only the rows j > i count, or j >= i. `guarded` says that some of their pairs have
// lanes that count for nothing: `edge_*` are the lanes alive in row `last_*` (negative: none to guard), and
// `diagonal` those alive where i = j.
template <class T>
struct TilePair {
  int64_t c;
  Side<T> i, j;
  Shape shape;
  bool guarded;
  int64_t last_i, last_j;
  Int<T> edge_i, edge_j, diagonal;
};

// A block of R rows from i against `columns` columns from j: one vector for each of its pairs.
template <class T, int R>
struct Block {
  Vec<T> at[R * block_columns];
  int64_t i, j, columns;
};

template <class T, int C>
GANKERN_INLINE Vec<T> distance(const T* a, const T* b, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  Vec<T> d = {};
  if constexpr (C > 0) {
    d = absolute<T>(load(a) - load(b));
#pragma GCC unroll 16
    for (int k = 1; k < C; ++k) d += absolute<T>(load(a + k * W) - load(b + k * W));
  } else {
    for (int64_t k = 0; k < c; ++k) d += absolute<T>(load(a + k * W) - load(b + k * W));
  }
  return d;
}

// sum_c (V_i - V_j) sgn(M_i - M_j)
template <class T, int C>
GANKERN_INLINE Vec<T> slope(const T* vi, const T* vj, const T* mi, const T* mj, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  const int64_t count = C > 0 ? C : c;
  Vec<T> q = {};
#pragma GCC unroll 4
  for (int64_t k = 0; k < count; ++k) {
    q += (load(vi + k * W) - load(vj + k * W)) * sign<T>(load(mi + k * W) - load(mj + k * W));
  }
  return q;
}

template <class T, int C, int R>
GANKERN_INLINE void distances(const TilePair<T>& t, Block<T, R>& d, int64_t c) {
  constexpr int W = Simd<T>::lanes;
  const T* mi = t.i.m + d.i * c * W;
#pragma GCC unroll 1
  for (int64_t b = 0; b < d.columns; ++b) {
    const T* mj = t.j.m + (d.j + b) * c * W;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) d.at[b * R + r] = distance<T, C>(mi + r * c * W, mj, c);
  }
}

// K = exp(-d) in place of d.
template <class T, int R>
GANKERN_INLINE void exponentials(Block<T, R>& d) {
#pragma GCC unroll 2
  for (int64_t p = 0; p < d.columns * R; ++p) d.at[p] = exp_negative(d.at[p]);
}

// Zero in the lanes that count for nothing, whatever was computed there.
template <class T, int R>
GANKERN_INLINE void guard(const TilePair<T>& t, Block<T, R>& k) {
  if (!t.guarded) return;
  for (int64_t b = 0; b < k.columns; ++b) {
    for (int r = 0; r < R; ++r) {
      Int<T> bits = reinterpret_cast<Int<T>>(k.at[b * R + r]);
      if (k.i + r == t.last_i) bits &= t.edge_i;
      if (k.j + b == t.last_j) bits &= t.edge_j;
      if (t.shape == Shape::diagonal && k.i + r == k.j + b) bits &= t.diagonal;
      k.at[b * R + r] = reinterpret_cast<Vec<T>>(bits);
    }
  }
}

// Adds `direction` times each pair's value to both of its rows.
template <class T, int R, int direction>
GANKERN_INLINE void add_to_rows(const TilePair<T>& t, const Block<T, R>& k) {
  constexpr int W = Simd<T>::lanes;
  T* own = t.i.sum_n + k.i * W;
  T* out = t.j.sum_n + k.j * W;
  Vec<T> sum[R];
  for (int r = 0; r < R; ++r) sum[r] = load(own + r * W);
  for (int64_t b = 0; b < k.columns; ++b) {
    Vec<T> other = load(out + b * W);
    for (int r = 0; r < R; ++r) {
      sum[r] += direction * k.at[b * R + r];
      other += direction * k.at[b * R + r];
    }
    store(out + b * W, other);
  }
  for (int r = 0; r < R; ++r) store(own + r * W, sum[r]);
}

// w = (G_i + G_j) k for each pair.
template <class T, int R>
GANKERN_INLINE void weigh(const TilePair<T>& t, Block<T, R>& k) {
  constexpr int W = Simd<T>::lanes;
  for (int64_t b = 0; b < k.columns; ++b) {
    for (int r = 0; r < R; ++r) k.at[b * R + r] *= load(t.i.g + (k.i + r) * W) + load(t.j.g + (k.j + b) * W);
  }
}

// Adds direction * w * sgn(M_i - M_j) to row i and its opposite to row j, for N elements from k0 on.
template <class T, int R, int direction, int N>
GANKERN_INLINE void spread_chunk(const TilePair<T>& t, const Block<T, R>& w, int64_t c, int64_t k0) {
  constexpr int W = Simd<T>::lanes;
  const T* mi = t.i.m + (w.i * c + k0) * W;
  const T* mj = t.j.m + (w.j * c + k0) * W;
  T* own = t.i.sum_c + (w.i * c + k0) * W;
  T* out = t.j.sum_c + (w.j * c + k0) * W;
  Vec<T> row[R * N], sum[R * N];
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) {
      row[r * N + k] = load(mi + (r * c + k) * W);
      sum[r * N + k] = load(own + (r * c + k) * W);
    }
  }
#pragma GCC unroll 1
  for (int64_t b = 0; b < w.columns; ++b, mj += c * W, out += c * W) {
    for (int k = 0; k < N; ++k) {
      Vec<T> other = load(out + k * W);
      for (int r = 0; r < R; ++r) {
        const Vec<T> si = direction * sign<T>(row[r * N + k] - load(mj + k * W));
        sum[r * N + k] += w.at[b * R + r] * si;
        other -= w.at[b * R + r] * si;
      }
      store(out + k * W, other);
    }
  }
  for (int r = 0; r < R; ++r) {
    for (int k = 0; k < N; ++k) store(own + (r * c + k) * W, sum[r * N + k]);
  }
}

template <class T, int C, int R, int direction>
GANKERN_INLINE void spread(const TilePair<T>& t, const Block<T, R>& w, int64_t c) {
  int64_t k = 0;
#pragma GCC unroll 8
  for (; k + chunk <= c; k += chunk) spread_chunk<T, R, direction, chunk>(t, w, c, k);
#pragma GCC unroll 4
  for (; k < c; ++k) spread_chunk<T, R, direction, 1>(t, w, c, k);
}

struct Forward {
  static constexpr bool with_n = true, with_c = false, with_v = false;

  template <class T, int C, int R>
  static GANKERN_INLINE void block(const TilePair<T>& t, Block<T, R>& p, int64_t c) {
    distances<T, C, R>(t, p, c);
    exponentials<T, R>(p);
    guard<T, R>(t, p);
    add_to_rows<T, R, 1>(t, p);
  }
};

struct Backward {
  static constexpr bool with_n = false, with_c = true, with_v = false;

  template <class T, int C, int R>
  static GANKERN_INLINE void block(const TilePair<T>& t, Block<T, R>& p, int64_t c) {
    distances<T, C, R>(t, p, c);
    exponentials<T, R>(p);
    weigh<T, R>(t, p);
    guard<T, R>(t, p);
    spread<T, C, R, -1>(t, p, c);
  }
};

struct DoubleBackward {
  static constexpr bool with_n = true, with_c = true, with_v = true;

  template <class T, int C, int R>
  static GANKERN_INLINE void block(const TilePair<T>& t, Block<T, R>& p, int64_t c) {
    constexpr int W = Simd<T>::lanes;
    distances<T, C, R>(t, p, c);
    exponentials<T, R>(p);
#pragma GCC unroll 1
    for (int64_t b = 0; b < p.columns; ++b) {
      const int64_t j = (p.j + b) * c * W;
      for (int r = 0; r < R; ++r) {
        const int64_t i = (p.i + r) * c * W;
        p.at[b * R + r] *= slope<T, C>(t.i.v + i, t.j.v + j, t.i.m + i, t.j.m + j, c);
      }
    }
    guard<T, R>(t, p);
    add_to_rows<T, R, -1>(t, p);
    weigh<T, R>(t, p);
    guard<T, R>(t, p);
    spread<T, C, R, 1>(t, p, c);
  }
};

template <class Order, class T, int C, int R>
GANKERN_INLINE void walk(const TilePair<T>& t, int64_t i, int64_t j0, int64_t j1) {
  const int64_t c = C > 0 ? C : t.c;
  Block<T, R> p;
  p.i = i;
  for (p.j = j0; p.j < j1; p.j += block_columns) {
    p.columns = j1 - p.j < block_columns ? j1 - p.j : block_columns;
    Order::template block<T, C, R>(t, p, c);
  }
}

template <class Order, class T, int C>
void tile_pair(const TilePair<T>& t) {
  int64_t i = 0;
  if (t.shape == Shape::full) {
    for (; i + block_rows <= t.i.rows; i += block_rows) walk<Order, T, C, block_rows>(t, i, 0, t.j.rows);
    for (; i < t.i.rows; ++i) walk<Order, T, C, 1>(t, i, 0, t.j.rows);
    return;
  }
  const int64_t skip = t.shape == Shape::above_diagonal ? 1 : 0;
  for (; i + block_rows <= t.i.rows; i += block_rows) {
    for (int r = 0; r < block_rows; ++r) walk<Order, T, C, 1>(t, i + r, i + r + skip, i + block_rows);
    walk<Order, T, C, block_rows>(t, i, i + block_rows, t.j.rows);
  }
  for (; i < t.i.rows; ++i) walk<Order, T, C, 1>(t, i, i + skip, t.j.rows);
}

}  // namespace
}  // namespace GANKERN_ISA_NAMESPACE
}  // namespace gankern
